"""How fast this machine is: a few products and reads, in about a second."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

SIZE = 1024
READ = 2**27
SMALL_CALLS = 1000
"""Small operations that take about as long as calling one layer, with its hooks, does."""

ELEMENTS = 2**19

ROUNDS = 5


def speed() -> tuple[float, float, float, float]:
    """This process's CPU threads.

    Peak of float32 products a second, bytes read a second, seconds of a layer's calls, and of one number's activation.

    Processor time, so that what else the machine does disturbs little.
    """
    left, right = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    table, row = torch.randn(READ // 4 // SIZE, SIZE), torch.randn(1, SIZE)
    small, activations = torch.randn(1, 8), torch.randn(ELEMENTS)
    threads = torch.get_num_threads()

    def calls() -> None:
        for _ in range(SMALL_CALLS):
            small.add(small)

    with torch.no_grad():
        product = _seconds(lambda: left @ right) / threads
        read = _seconds(lambda: row @ table.T) / threads
        called = _seconds(calls)
        element = _seconds(lambda: torch.nn.functional.gelu(activations)) / threads / ELEMENTS
    return 2 * SIZE**3 / product, READ / read, called, element


def _seconds(run: Callable[[], object]) -> float:
    run()
    taken = []
    for _ in range(ROUNDS):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return max(min(taken), 1e-9)
