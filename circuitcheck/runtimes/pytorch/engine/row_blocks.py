"""Rows in blocks that run together, and what becomes of a block that does not fit memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from circuitcheck.core.errors import MemoryBudgetError

GIVEN_UP = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
"""What allocators that raise a bare RuntimeError say."""


@dataclass(frozen=True)
class Block:
    """Rows that run together: some prompts, each under the same sets of units.

    Attributes:
        start: first prompt.
        stop: prompt after the last.
        sets: numbers of the sets of units.
    """

    start: int
    stop: int
    sets: tuple[int, ...]

    @property
    def prompts(self) -> slice:
        """The prompts, to index a batch with."""
        return slice(self.start, self.stop)

    @property
    def rows(self) -> int:
        """How many rows run together."""
        return (self.stop - self.start) * len(self.sets)

    def halves(self) -> list[Block]:
        """Two blocks with the same rows; none where this is one row."""
        count = self.stop - self.start
        if count > 1:
            middle = self.start + count // 2
            return [Block(self.start, middle, self.sets), Block(middle, self.stop, self.sets)]
        if len(self.sets) > 1:
            middle = len(self.sets) // 2
            return [Block(self.start, self.stop, part) for part in (self.sets[:middle], self.sets[middle:])]
        return []


def blocks(prompts: int, sets: Sequence[int], rows: int) -> list[Block]:
    """All rows of `prompts` prompts under each of `sets`, in blocks of at most `rows` and of like sizes.

    A prompt's sets stay together as far as they fit, because they share what the clean pass did.
    """
    return [
        Block(start, stop, tuple(sets[first:last]))
        for first, last in spans(len(sets), rows)
        for start, stop in spans(prompts, max(1, rows // (last - first)))
    ]


def gathered(starting: Mapping[int, Sequence[int]], prompts: int, rows: int) -> list[list[int]]:
    """Sets that run together: those that start in one layer, and in later ones as long as all have few rows.

    Args:
        starting: layer to the numbers of the sets that start in it.
        prompts: how many prompts each is run on.
        rows: the most rows of sets that start in several layers.

    Returns:
        Their numbers, in the order of the layers in which they start.
    """
    groups: list[list[int]] = []
    for _, sets in sorted(starting.items()):
        if groups and (len(groups[-1]) + len(sets)) * prompts <= rows:
            groups[-1] += sets
        else:
            groups.append(list(sets))
    return groups


def spans(count: int, most: int) -> Iterator[tuple[int, int]]:
    """Cuts `range(count)` into as few pieces of at most `most` as there can be, of sizes that differ by at most one."""
    pieces = -(-count // most)
    for piece in range(pieces):
        yield piece * count // pieces, (piece + 1) * count // pieces


class Queue:
    """Blocks that wait to run; one that does not fit memory is put back in halves, and what was computed stays.

    Args:
        waiting: the blocks.
        halved: called whenever a block is halved.
    """

    def __init__(self, waiting: Iterable[Block], halved: Callable[[], None]) -> None:
        self._waiting = deque(waiting)
        self._halved = halved
        self._most_rows: int | None = None
        self._has_failed = False

    def __iter__(self) -> Iterator[Block]:
        """The blocks, each as large as those that were put back have shown to fit."""
        while self._waiting:
            if self._has_failed and torch.cuda.is_available():
                # Only here are the error and the frames that it held, with all their tensors, gone.
                torch.cuda.empty_cache()
            self._has_failed = False
            block = self._waiting.popleft()
            if self._most_rows is not None and block.rows > self._most_rows:
                self._put_back(block)
            else:
                yield block

    def taken(self, rows: int) -> list[Block]:
        """The next block, and those behind it as far as all have at most so many rows; none where none wait."""
        blocks = list[Block]()
        for block in self:
            blocks.append(block)
            rows -= block.rows
            if not self._waiting or self._waiting[0].rows > rows:
                break
        return blocks

    def halve(self, block: Block, error: Exception) -> None:
        """Puts a block back that failed, in halves.

        Raises:
            Exception: the error itself, where it is not for memory.
            MemoryBudgetError: the block is one row.
        """
        if not is_out_of_memory(error):
            raise error
        self._has_failed = True
        halves = self._put_back(block)
        self._most_rows = max(half.rows for half in halves)

    def _put_back(self, block: Block) -> list[Block]:
        halves = block.halves()
        if not halves:
            raise MemoryBudgetError(
                "One prompt under one set of units alone runs out of memory. Use shorter prompts, a smaller model, a "
                "lower precision or a machine with more memory."
            )
        self._halved()
        self._waiting.extendleft(reversed(halves))
        return halves


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on whatever device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in GIVEN_UP)
