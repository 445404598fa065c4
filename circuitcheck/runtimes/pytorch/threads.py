"""How many threads compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def thread_count() -> int:
    """How many threads compute, also in other runtimes of this process."""
    return torch.get_num_threads()


@contextmanager
def computing_threads(count: int) -> Iterator[None]:
    """That many computing threads, for as long as the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def share_of_threads(processes: int) -> Iterator[None]:
    """This process's share of the threads, so that processes that compute side by side do not wait for each other."""
    with computing_threads(max(1, torch.get_num_threads() // processes)):
        yield
