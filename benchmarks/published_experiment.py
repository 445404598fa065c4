"""The published experiment, whole: `python benchmarks/published_experiment.py --json FILE`.

13 prompts on a model of Pythia-70M's shape: zero and mean ablation of all 48 heads, drift under f16 and int8-sim, and
repair of up to 10 heads under both, by importance and at random. Its authors ran 1,666 forward passes, one prompt at a
time, in 45 s. Weights are random here, since what they are changes no cost; models are built before the clock starts.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from shapes import SEQ, SHAPES, build, tokens

from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import PromptPair, Prompts, Task
from circuitcheck.core.runtime import Work
from circuitcheck.core.specification import Ablation
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.load import hook_module
from circuitcheck.runtimes.pytorch.quantizers.int8_sim import simulate_int8
from circuitcheck.stats.drift import drift_sums, relative_drift

PROMPTS, MOST_REPAIRED, PUBLISHED_SECONDS, TARGET_SECONDS = 13, 10, 45.0, 4.0


def published_task() -> Task:
    """Random prompts of one length; the mean is taken over clean and counterfactual ones."""
    ids, answer, foil = tokens(2 * PROMPTS)
    return Task(
        "published",
        tuple(
            PromptPair(
                clean=tuple(ids[number].tolist()),
                counterfactual=tuple(ids[PROMPTS + number].tolist()),
                answer=int(answer[number]),
                foil=int(foil[number]),
                cluster="one",
            )
            for number in range(PROMPTS)
        ),
    )


def models() -> tuple[HookedModel, dict[str, HookedModel]]:
    """The float32 reference and both candidates."""
    module = build(SHAPES["pythia-70m"])
    reference = hook_module(module, name="reference")
    simulated = hook_module(copy.deepcopy(module), name="int8-sim")
    simulate_int8(simulated.module, simulated.structure)
    return reference, {"f16": hook_module(copy.deepcopy(module).half(), name="f16"), "int8-sim": simulated}


def experiment(
    reference: HookedModel, candidates: dict[str, HookedModel], prompts: Prompts
) -> tuple[dict[str, float], list[str]]:
    """Runs everything; seconds of each part, and notes on models that could not be replayed."""
    seconds, notes = {}, list[str]()
    units, start = reference.layout("head").units, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal start
        seconds[name], start = time.perf_counter() - start, time.perf_counter()

    metric, z = reference.metric(prompts), reference.activations(prompts, "head")
    lap("reference")
    importance, singles = {}, tuple((unit,) for unit in units)
    kinds: tuple[Ablation, ...] = ("zero", "mean")
    for kind in kinds:
        ablated = reference.patched(prompts, Patch("head", singles, kind), Work(notes=notes))
        importance[kind] = (metric - ablated).mean(1)
        lap(f"{kind} ablation")
    orders = [np.argsort(-np.abs(importance["zero"])), np.random.default_rng(0).permutation(len(units))]
    sets = tuple({units[place] for place in order[:k]} for order in orders for k in range(1, MOST_REPAIRED + 1))
    for name, candidate in candidates.items():
        drift = relative_drift(drift_sums(z, candidate.activations(prompts, "head")))
        assert np.isfinite(drift).all()
        lap(f"{name} drift")
        repaired = candidate.patched(prompts, Patch("head", sets, z), Work(notes=notes))
        assert np.isfinite(repaired).all()
        lap(f"{name} repair")
    return seconds, notes


def main() -> None:
    """Runs the experiment several times and prints medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    reference, candidates = models()
    prompts = published_task().prompts()
    experiment(reference, candidates, prompts)
    rounds, notes = [], []
    for _ in range(arguments.rounds):
        seconds, notes = experiment(reference, candidates, prompts)
        rounds.append(seconds)
    totals = [sum(seconds.values()) for seconds in rounds]
    total = statistics.median(totals)
    runs = 1 + 2 * len(reference.layout("head").units) + len(candidates) * (1 + 2 * MOST_REPAIRED)
    for name in rounds[0]:
        print(f"{name}: {statistics.median(seconds[name] for seconds in rounds):.3f} s")
    print(
        f"total: {total:.2f} s, {min(totals):.2f} to {max(totals):.2f} (to reach: <= {TARGET_SECONDS:g}), for what "
        f"would be {runs * PROMPTS} passes of one prompt of {SEQ} tokens each; published: {PUBLISHED_SECONDS:g} s"
    )
    for note in notes:
        print(note)
    if arguments.json:
        figures = {
            "seconds": total,
            "seconds_min": min(totals),
            "seconds_max": max(totals),
            "parts": {name: statistics.median(seconds[name] for seconds in rounds) for name in rounds[0]},
            "passes": runs * PROMPTS,
            "ratio_vs_published": PUBLISHED_SECONDS / total,
            "threads": torch.get_num_threads(),
            "notes": notes,
        }
        arguments.json.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
