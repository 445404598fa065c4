"""Are important heads more fragile?: `python benchmarks/findings.py --json FILE`.

Importance of the reference against drift of every candidate, over all heads and within layers, with intervals over
prompts and p from shuffling inside layers, for importance by resample, mean and zero ablation: every figure of
docs/findings.md. The same once more with drift taken behind the output projection, as the published experiment did.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor, nn

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.core.candidates import DEFAULT_CANDIDATES, RTN
from circuitcheck.core.prompts import Prompts, Task
from circuitcheck.diagnostics.association import associate, permutation_p
from circuitcheck.gate.record import record_reference
from circuitcheck.gate.sample import part_sample
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.load import load_model
from circuitcheck.stats.bootstrap import weighted_means
from circuitcheck.stats.drift import drift_draws, drift_sums, relative_drift
from circuitcheck.tasks.named import BUILT_IN, load_task
from circuitcheck.tasks.texts import TextPair
from circuitcheck.tasks.tokens import tokenize

REAL_MODEL = Path(__file__).parents[2] / "shared" / "models" / "stories260k"
CANDIDATES = tuple(spec for spec in (*DEFAULT_CANDIDATES, *RTN) if spec not in ("f32", "int2-rtn"))
"""All that need no further package, but for the reference itself and for one that has broken circuits."""

BETWEEN = (0.0, 0.25, 0.5)
"""Shares of importance's variance between layers, for the rate of false alarms."""

TEMPLATES = (
    "{name} was a happy {noun}. {name} liked to play in the park. One day,",
    "Once there was a little {noun} named {name}. {name} loved to run. One day,",
    "There was a {noun} called {name}. Every day {name} played outside. Then",
    "{name} saw a big {noun}. {name} was so happy. After that,",
    "One day {name} found a {noun}. {name} took it home. At night,",
    "{name} and a {noun} went to the park. {name} had fun. Then",
)
NOUNS = ("girl", "boy", "dog", "cat", "bird", "frog", "bear", "bunny")
NAMES = (" Lily", " Tim")


def names_task(tokenizer: Any) -> Task:
    """Recalling a name that was just read; templates take turns, so that the first prompts are of all of them."""
    pairs = []
    for noun in NOUNS:
        for answer, foil in (NAMES, NAMES[::-1]):
            for number, template in enumerate(TEMPLATES):
                clean, other = (template.format(name=name.strip(), noun=noun) for name in (answer, foil))
                pair, problems = tokenize(tokenizer, TextPair(clean, other, answer, foil, f"template-{number}"))
                if pair is None or problems:
                    raise SystemExit(f"{clean!r} cannot be used: {'; '.join(problems)}")
                pairs.append(pair)
    return Task("names", tuple(pairs))


def tasks_of(model: str, reference: HookedModel) -> list[Task]:
    """The built-in tasks of the embedded model; of any other, the names."""
    if model == "embedded":
        return [load_task(name, reference.tokenizer) for name in BUILT_IN]
    return [names_task(reference.tokenizer)]


@contextmanager
def record_outputs(model: HookedModel) -> Iterator[dict[int, Tensor]]:
    """What the attention output projections put out, layer to `[batch, seq, d_model]`: the heads already mixed."""
    outputs: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for site in model.structure.layers:

            def keep(_: nn.Module, __: Any, output: Tensor, layer: int = site.layer) -> None:
                outputs[layer] = output.detach().clone()

            handle = model.module.get_submodule(site.projection).register_forward_hook(keep)
            stack.callback(handle.remove)
        yield outputs


def mixed_drift(reference: HookedModel, candidate: HookedModel, prompts: Prompts) -> NDArray[Any]:
    """Drift of slices of the projections' OUTPUT that are called heads there but are not, `[heads]`."""
    squares = np.zeros((2, len(reference.layout("head").units)))
    for batch in prompts.batches():
        slices = []
        for model in (reference, candidate):
            with record_outputs(model) as outputs, torch.no_grad():
                model.module(torch.from_numpy(batch.clean))
            sites = model.structure.layers
            parts = [outputs[site.layer].double().chunk(site.n_heads, dim=-1) for site in sites]
            slices.append([part for layer in parts for part in layer])
        for number, (ours, theirs) in enumerate(zip(*slices, strict=True)):
            squares[:, number] += [float((ours - theirs).square().sum()), float(ours.square().sum())]
    return np.asarray(np.sqrt(squares[0] / squares[1]))


def correlations(importance: NDArray[Any], drift: NDArray[Any], layers: NDArray[Any]) -> dict[str, float]:
    """Without intervals: rho and its textbook p over all heads, rho and permutation p within layers, variance share."""
    found = associate(importance, drift, layers, importance[None], drift[None])
    return {
        "raw": found.raw.value,
        "p_raw": float(spearmanr(np.abs(importance), drift).pvalue),
        "within": found.within_layers.value,
        "p_within": found.p_within_layers,
        "between_share": found.between_layers_share,
    }


def false_alarms(between: float, data_sets: int = 4000) -> dict[str, float]:
    """How often unrelated importance and drift correlate at p < 0.05, in the published experiment's shape.

    Args:
        between: share of importance's variance that lies between the 6 layers of 8 heads; of drift's it is 98 %.
        data_sets: how many are made up.

    Returns:
        The rate for the textbook test over all heads, and for shuffling inside layers.
    """
    rng, layers = np.random.default_rng(0), np.repeat(np.arange(6), 8)

    def values(share: float) -> NDArray[Any]:
        of_layers, of_heads = rng.normal(size=6), rng.normal(size=48)
        return np.asarray(np.sqrt(share) * of_layers[layers] + np.sqrt(1 - share) * of_heads)

    pairs = [(np.exp(values(between)), values(0.98)) for _ in range(data_sets)]
    return {
        "textbook": float(np.mean([spearmanr(*pair).pvalue < 0.05 for pair in pairs])),
        "within_layers": float(np.mean([permutation_p(*pair, layers, 199) <= 0.05 for pair in pairs[:1000]])),
    }


def rows_of(model: str, specs: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One row for each task, candidate and kind of importance."""
    reference = load_model(model)
    baselines: list[Baseline] = [record_reference(reference, task) for task in tasks_of(model, reference)]
    for spec in specs:
        candidate = load_model(model, spec)
        for baseline in baselines:
            layers, part = np.array([layer for layer, _ in baseline.measured]), part_sample(baseline)
            sums = drift_sums(baseline.z, candidate.activations(baseline.part, "head"))
            drift, draws = relative_drift(sums), drift_draws(sums, part.weights)
            mixed = mixed_drift(reference, candidate, baseline.part)
            for kind in baseline.ablated:
                importance = baseline.importance(kind)
                effects = weighted_means(part.weights, baseline.of_part(baseline.effects(kind)))
                found = associate(importance, drift, layers, effects, draws, level=part.level, seed=baseline.spec.seed)
                yield {
                    "model": baseline.model,
                    "task": baseline.task.name,
                    "candidate": spec,
                    "importance": kind,
                    "prompts": len(baseline.solved),
                    "of": len(baseline.task.pairs),
                    "heads": len(baseline.measured),
                    "raw": [found.raw.value, found.raw.low, found.raw.high],
                    "within": [found.within_layers.value, found.within_layers.low, found.within_layers.high],
                    "p_within": found.p_within_layers,
                    "between_share": found.between_layers_share,
                    "p_raw": correlations(importance, drift, layers)["p_raw"],
                    "behind_projection": correlations(importance, mixed, layers),
                    "importance_of_layers": _means(np.abs(importance), layers),
                    "drift_behind_of_layers": _means(mixed, layers),
                }


def _means(values: NDArray[Any], layers: NDArray[Any]) -> list[float]:
    return [float(values[layers == layer].mean()) for layer in np.unique(layers)]


def shown(row: dict[str, Any]) -> str:
    """One line of a Markdown table."""
    (raw, raw_low, raw_high), (within, low, high), mixed = row["raw"], row["within"], row["behind_projection"]
    return (
        f"| {row['task']} | {row['candidate']} | {row['importance']} | {raw:+.2f} [{raw_low:+.2f}, {raw_high:+.2f}] | "
        f"{within:+.2f} [{low:+.2f}, {high:+.2f}] | {row['p_within']:.4f} | {row['between_share']:.0%} | "
        f"{mixed['raw']:+.2f} ({mixed['p_raw']:.4f}) | {mixed['within']:+.2f} ({mixed['p_within']:.3f}) | "
        f"{mixed['between_share']:.0%} |"
    )


HEADER = (
    "| task | candidate | importance | raw | within layers | p | between | behind: raw (p) | within (p) | between |\n"
    + "| --- " * 10
    + "|"
)


def main() -> None:
    """Measures both models and prints a table of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--real-model", type=Path, default=REAL_MODEL, help="a directory; left out where there is none")
    parser.add_argument("--candidates", nargs="+", default=CANDIDATES)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for model in ("embedded", *([str(arguments.real_model)] if arguments.real_model.is_dir() else [])):
        found = list(rows_of(model, arguments.candidates))
        first = found[0]
        print(f"\n## {first['model']}: {first['heads']} heads\n\n{HEADER}")
        for row in found:
            print(shown(row))
        rows += found
    print("\n## Unrelated importance and drift, 6 layers of 8 heads: share of p < 0.05\n")
    print("| between layers, of importance | textbook p over all heads | p within layers |\n| --- | --- | --- |")
    alarms = {share: false_alarms(share) for share in BETWEEN}
    for share, rates in alarms.items():
        print(f"| {share:.0%} | {rates['textbook']:.0%} | {rates['within_layers']:.0%} |")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "false_alarms": alarms}, indent=1) + "\n")


if __name__ == "__main__":
    main()
