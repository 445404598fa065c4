"""How fast exact sweeps are: `python benchmarks/sweep.py --json FILE`.

Every contestant ablates heads of the same random models on the same prompts and must find the same importances. Each
has a process of its own, for its peak memory; the processes take turns, one at a time, and what is reported are medians
over the turns with the spread between the quartiles.

Contestants: `ours`; `full`, plain full passes batched over prompts; `full, last logits`, the same with only the last
position's logits; `single`, full passes of one prompt at a time; `transformerlens`, TransformerLens's bridge with
`run_with_hooks` (`pip install circuitcheck[bench]`, or `--peer-python` of an environment that has it).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from shapes import GROWTH, PROMPTS, SEQ, SHAPES, Shape, needed_flops
from sweep_worker import BUDGET

WORKER = Path(__file__).parent / "sweep_worker.py"
ROUNDS = {"pythia-70m": 7, "pythia-160m": 3, "pythia-410m": 3}
SUBSET = 24
"""Heads that full passes measure where a model has many; each costs the same, so their time is scaled up."""

TARGETS = {
    "ratio_vs_full": (">=", 9.0),
    "ratio_vs_single": (">=", 25.0),
    "ratio_vs_transformerlens": (">=", 9.0),
    "peak_share": (">=", 0.70),
    "peak_rss_ratio": ("<=", 1.3),
    "max_difference": ("<=", 1e-5),
}


class Worker:
    """A contestant's process; None comes back where it could not start."""

    def __init__(self, name: str, shape: Shape, python: str = sys.executable) -> None:
        self.name = name
        command = [python, "-W", "ignore", str(WORKER), name, str(shape.layers), str(shape.heads), str(shape.width)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.ready = self.stdout.readline().strip() == "ready"

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stdin.close()
        self.stdout.close()
        self.process.wait()

    def turn(self, heads: list[tuple[int, int]]) -> dict[str, Any]:
        """One sweep over `heads`."""
        print(json.dumps(heads), file=self.stdin, flush=True)
        line = self.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: its process ended with status {self.process.wait()}")
        return json.loads(line)


def compare(shape: Shape, rounds: int, peer: str) -> dict[str, Any]:
    """All contestants on one shape."""
    every = [(layer, head) for layer in range(shape.layers) for head in range(shape.heads)]
    some = every[:: max(1, len(every) // SUBSET)] if len(every) > 2 * SUBSET else every
    names = ["ours", "budget", "full", "full, last logits", "single", "transformerlens"]
    workers = {name: Worker(name, shape, peer if name == "transformerlens" else sys.executable) for name in names}
    workers["peak"] = Worker("peak", shape)
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    try:
        for number in range(rounds):
            for name, worker in workers.items():
                if worker.ready:
                    heads = every if name in ("ours", "budget") else some
                    turns[name].append(worker.turn(heads))
                    print(f"{shape.name} round {number + 1}/{rounds} {name}: {turns[name][-1]['seconds']:.2f} s")
    finally:
        for worker in workers.values():
            worker.__exit__(None, None, None)
    scale = {name: 1.0 if name in ("ours", "budget") else len(every) / len(some) for name in names}
    return summarise(shape, turns, scale, [every.index(head) for head in some])


def summarise(
    shape: Shape, turns: dict[str, list[dict[str, Any]]], scale: dict[str, float], some: list[int]
) -> dict[str, Any]:
    """Medians, spreads, ratios and differences."""
    seconds = {name: [scale[name] * turn["seconds"] for turn in turns[name]] for name in scale if turns[name]}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ours = np.array(turns["ours"][0]["result"])
    peak = statistics.median(turn["result"] for turn in turns["peak"])
    peaks = {name: max(turn["peak"] for turn in turns[name]) for name in seconds}
    largest = {
        name: float(np.abs(np.array(turns[name][0]["result"]) - (ours if name == "budget" else ours[some])).max())
        for name in seconds
        if name != "ours"
    }

    def ratio(name: str) -> float | None:
        """Median over rounds of the ratio within a round, which what else the machine does disturbs least."""
        if name not in seconds:
            return None
        return statistics.median(a / b for a, b in zip(seconds[name], seconds["ours"], strict=True))

    return {
        "shape": {"layers": shape.layers, "heads": shape.heads, "width": shape.width, "prompts": PROMPTS, "seq": SEQ},
        "heads_measured": {name: round(shape.n_heads / scale[name]) for name in seconds},
        "seconds": medians,
        "spread": {name: spread(values) for name, values in seconds.items()},
        "ratio_vs_full": ratio("full"),
        "ratio_vs_full_last_logits": ratio("full, last logits"),
        "ratio_vs_single": ratio("single"),
        "ratio_vs_transformerlens": ratio("transformerlens"),
        "matmul_peak_gflops": peak / 1e9,
        "needed_gflop": needed_flops(shape) / 1e9,
        "peak_share": needed_flops(shape) / medians["ours"] / peak,
        "peak_rss_mib": {name: value / 2**20 for name, value in peaks.items()},
        "peak_rss_ratio": peaks["ours"] / peaks["full"],
        "budget_mib": BUDGET / 2**20,
        "growth_under_budget_mib": max(turn["growth"] for turn in turns["budget"]) / 2**20,
        "max_difference": max(largest.values()),
        "differences": largest,
    }


def spread(values: list[float]) -> list[float]:
    """First and third quartile, or both ends where there are few values."""
    return [min(values), max(values)] if len(values) < 4 else statistics.quantiles(values, n=4)[::2]


def growth(rounds: int) -> dict[str, float]:
    """Exponents of time in layers and in heads alone, and in layers x heads where both grow alike.

    An ablation runs what follows it, so the number of layers counts twice: once for the heads and once for what each
    of them runs.
    """
    exponents = {}
    for what, shapes in GROWTH.items():
        times = []
        for shape in shapes:
            heads = [(layer, head) for layer in range(shape.layers) for head in range(shape.heads)]
            with Worker("ours", shape) as worker:
                times.append(min(worker.turn(heads)["seconds"] for _ in range(rounds)))
            print(f"growth, {shape.name}: {times[-1]:.2f} s")
        steps = [getattr(shape, what) for shape in shapes]
        exponents[what] = float(np.polyfit(np.log(steps), np.log(times), 1)[0])
    return exponents


def main() -> None:
    """Runs everything and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where all figures go")
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, help="turns of every contestant")
    parser.add_argument("--peer-python", default=sys.executable, help="Python that has TransformerLens")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    for name in arguments.shapes:
        results[name] = compare(SHAPES[name], arguments.rounds or ROUNDS[name], arguments.peer_python)
    exponents = growth(arguments.rounds or 3)
    # With as many more layers as heads, each grows with the root of their product.
    both = sum(exponents.values()) / 2
    first = results[arguments.shapes[0]] if arguments.shapes else {}
    summary = {key: first.get(key) for key in TARGETS}
    summary |= {"growth_exponent": both, "growth_exponents": exponents}
    for key, (sign, target) in TARGETS.items():
        value = summary[key]
        met = value is not None and math.isfinite(value) and (value >= target if sign == ">=" else value <= target)
        shown = "not measured" if value is None else f"{value:.3g}"
        print(f"{key}: {shown} (to reach: {sign} {target:g}){'' if met else '  <-- not reached'}")
    print(f"growth of time in layers x heads: {both:.2f} ({exponents})")
    if arguments.json:
        arguments.json.write_text(json.dumps(summary | {"shapes": results}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
