"""What edits at the answer position alone save: `python benchmarks/answer_position.py --json FILE`.

All heads of random models of Pythia's shapes, zero ablation, 16 prompts of 32 tokens: at all positions, and at the
answer position, where a row is one token beside the clean run's keys and values. They take turns; the ratio is the
median over the turns. Some heads are run in full as well, which both must agree with.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import shapes
import torch

from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.core.runtime import Work
from circuitcheck.core.specification import POSITIONS, Positions
from circuitcheck.runtimes.pytorch.engine.sweep import Engine
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.load import hook_module

CHECKED = 7
"""Every so many heads are run in full as well."""


def task(prompts: int, seq: int) -> Task:
    """Random prompts; a zero ablation needs no counterfactual."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(shapes.VOCABULARY, (prompts, seq), generator=generator).tolist()
    targets = torch.randint(shapes.VOCABULARY, (prompts, 2), generator=generator).tolist()
    return Task(
        "random", tuple(PromptPair(tuple(row), tuple(row), *two, "one") for row, two in zip(ids, targets, strict=True))
    )


def sweep(model: HookedModel, prompts: Task, heads: list[Any], at: Positions, engine: Engine = "replay") -> np.ndarray:
    """M with each head ablated alone, `[heads, prompts]`."""
    work = Work()
    patch = Patch("head", tuple((head,) for head in heads), "zero", at)
    metric = model.patched(prompts.prompts(), patch, work, engine=engine)
    assert not work.notes, work.notes
    return metric


def compare(shape: shapes.Shape, rounds: int, prompts: int, seq: int) -> dict[str, Any]:
    """Both kinds of sweep on one shape."""
    model, some = hook_module(shapes.build(shape)), task(prompts, seq)
    heads = list(model.layout("head").units)
    seconds: dict[str, list[float]] = {at: [] for at in POSITIONS}
    for number in range(rounds):
        for at in POSITIONS:
            start = time.perf_counter()
            found = sweep(model, some, heads, at)
            seconds[at].append(time.perf_counter() - start)
            print(f"{shape.name} round {number + 1}/{rounds} {at}: {seconds[at][-1]:.2f} s", flush=True)
    full = sweep(model, some, heads[::CHECKED], "answer", "full")
    return {
        "heads": len(heads),
        "prompts": prompts,
        "tokens": seq,
        "seconds": {at: statistics.median(values) for at, values in seconds.items()},
        "ratio": statistics.median(a / b for a, b in zip(seconds["all"], seconds["answer"], strict=True)),
        "max_difference": float(np.abs(found[::CHECKED] - full).max()),
    }


def main() -> None:
    """Runs everything and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where all figures go")
    parser.add_argument("--shapes", nargs="*", choices=shapes.SHAPES, default=["pythia-70m", "pythia-160m"])
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    parser.add_argument("--prompts", type=int, default=shapes.PROMPTS)
    parser.add_argument("--tokens", type=int, default=32, help="of a prompt")
    arguments = parser.parse_args()
    results = {
        name: compare(shapes.SHAPES[name], arguments.rounds, arguments.prompts, arguments.tokens)
        for name in arguments.shapes
    }
    print(json.dumps(results, indent=1, sort_keys=True))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
