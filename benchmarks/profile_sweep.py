"""Where a sweep's time goes, and what bounds it: `python benchmarks/profile_sweep.py`.

Prints the operators that take most of the time of one sweep at Pythia-70M's shape, and how near to the matmul peak the
model's own layer comes when it runs alone, back to back, on as many rows as a sweep packs. Most of a sweep is
such layers, so that share of the peak is about what an engine that calls the layers as modules can reach.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from shapes import SEQ, SHAPES, Shape, build
from sweep_worker import replayed
from torch.profiler import ProfilerActivity, profile

ROUNDS, ROWS, SIDE = 15, 64, 2048
"""Repeats; rows of SEQ tokens that a sweep runs together on a CPU; side of the square matrices of the peak."""


def median_seconds(run: Callable[[], object]) -> float:
    """After one run that is not counted."""
    times = []
    run()
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peak() -> float:
    """Operations a second of a large square float32 product."""
    left, right = torch.randn(2, SIDE, SIDE)
    return 2 * SIDE**3 / median_seconds(lambda: left @ right)


def bare_layer(shape: Shape) -> float:
    """Operations a second of one layer of the model, alone."""
    module = build(shape)
    hidden = torch.randn(ROWS, SEQ, shape.width)
    positions = torch.arange(SEQ)[None]
    rotary = module.gpt_neox.rotary_emb(hidden, position_ids=positions)
    layer = module.gpt_neox.layers[0]
    mask = torch.full((SEQ, SEQ), torch.finfo(torch.float32).min).triu(1)[None, None]
    needed = ROWS * SEQ * (24 * shape.width**2 + 4 * SEQ * shape.width)
    return needed / median_seconds(lambda: layer(hidden, attention_mask=mask, position_embeddings=rotary))


def main() -> None:
    """Prints both."""
    shape = SHAPES["pythia-70m"]
    sweep = replayed(shape)
    heads = [(layer, head) for layer in range(shape.layers) for head in range(shape.heads)]
    with torch.no_grad():
        sweep(heads)
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            sweep(heads)
        events = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)
        total = sum(event.self_cpu_time_total for event in events)
        for event in events[:12]:
            print(f"{event.key:28} {event.self_cpu_time_total / total:6.1%} {event.count:6} calls")
        print(f"total {total / 1e6:.3f} s")
        print(f"a layer alone: {bare_layer(shape) / peak():.2f} of the matmul peak")


if __name__ == "__main__":
    main()
