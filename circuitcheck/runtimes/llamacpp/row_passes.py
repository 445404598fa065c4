"""Passes over rows: logits, values of units, and logits under patches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.errors import MemoryBudgetError, SiteError
from circuitcheck.core.phrases import listed
from circuitcheck.core.progress import Advance
from circuitcheck.core.units import Group, Layout, Unit
from circuitcheck.runtimes.llamacpp.cache_types import CacheType
from circuitcheck.runtimes.llamacpp.decoding import CELLS, MOST_ROWS, Decoder, LoadedModel
from circuitcheck.runtimes.llamacpp.eval_hook import Place, Visit
from circuitcheck.runtimes.llamacpp.graph_places import FINDERS

FloatArray = NDArray[np.float32]
Ids = NDArray[np.int64]
"""Token ids, `[rows, seq]`."""

MOST_TOKENS = 2048
"""Tokens of one pass beyond which nothing gets faster."""

SMALL, SHARE = 2**24, 0.05
"""Default budget for contexts: 16 MiB, or this share of the file where that is more."""


@dataclass
class Passes:
    """A model with one context at a time, made as large as what is asked of it.

    Attributes:
        model: the weights.
        layout: of the units that are seen.
        every: of all units; as `layout` by default.
        cache: type of keys and values.
        threads: that compute.
        row_bytes: what one more sequence takes, of so many positions in a pass and in the cache.
        budget: bytes for all of them.
        most: the most rows in one pass.
    """

    model: LoadedModel
    layout: Layout
    cache: CacheType
    threads: int
    row_bytes: Callable[[int, int], int]
    budget: int
    most: int = MOST_ROWS
    every: Layout | None = None
    _context: list[_Context] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether all positions run to the end: what a head puts out is wanted of all anyway, a last block is not."""
        return self.layout.kind != "head"

    def rows_at_once(self, positions: int, memory: int | None = None) -> int:
        """How many rows of so many positions fit.

        Raises:
            MemoryBudgetError: not even one.
        """
        budget = self.budget if memory is None else memory
        cells = -(-positions // CELLS) * CELLS
        needed = self.row_bytes(positions, cells)
        if self.is_whole:
            needed += 2 * 4 * positions * self.model.vocabulary  # logits, twice
        fitting = budget // needed
        if fitting < 1 and memory is not None:
            raise MemoryBudgetError(
                f"{self.model.name}: one row of {positions} positions takes {needed} bytes beside the model, and the "
                f"budget is {memory}. Allow more: --circuit-memory."
            )
        return max(1, min(self.most, fitting, MOST_TOKENS // positions))

    def uses_flash_attention(self) -> bool:
        """Whether llama.cpp chose its fused attention."""
        probe = np.zeros((1, 2), np.int64)
        nodes = self._whole(probe).decoder.trace(probe)
        return any(node.operation == "FLASH_ATTN_EXT" for node in nodes)

    def logits(self, ids: Ids) -> FloatArray:
        """At the last position, `[rows, vocabulary]`."""
        size = self.rows_at_once(ids.shape[1])
        return np.concatenate([self._whole(part).decoder.run(part) for part in _parts(ids, size)])

    def values(self, ids: Ids) -> list[FloatArray]:
        """Values of all units, for each group `[rows, seq, count, width]`."""
        found = [np.empty((*ids.shape, group.count, group.width), np.float32) for group in self.layout.groups]
        size = self.rows_at_once(ids.shape[1])
        for start in range(0, len(ids), size):
            part = slice(start, start + size)
            for whole, value in zip(found, self.read(ids[part])[1], strict=True):
                whole[part] = value
        return found

    def read(self, ids: Ids) -> tuple[FloatArray, list[FloatArray]]:
        """Logits and values of rows that fit into one pass."""
        context = self._whole(ids)
        logits, seen = context.seen(ids, self._places(context, ids.shape))
        return logits, self._as_units(ids, seen)

    def read_products(self, ids: Ids) -> tuple[list[FloatArray], list[FloatArray]]:
        """Values of heads, `[rows, seq, count, width]`, and their layers' products with W_O, `[rows, seq, out]`."""
        context = self._whole(ids)
        places = self._places(context, ids.shape)
        products = [Place(place.reader, f"product of {place.name}") for place in places if place.reader is not None]
        _, seen = context.seen(ids, [*places, *products])
        return self._as_units(ids, seen[: len(places)]), [
            value.reshape(*ids.shape, -1) for value in seen[len(places) :]
        ]

    def _as_units(self, ids: Ids, seen: Sequence[FloatArray]) -> list[FloatArray]:
        return [
            _of_group(value.reshape(*ids.shape, group.total, group.width), group)
            for value, group in zip(seen, self.layout.groups, strict=True)
        ]

    def _places(self, context: _Context, shape: tuple[int, ...]) -> list[Place]:
        """Of the groups that are seen, which may be some of all."""
        places = dict(zip(self.whole.groups, context.places(shape), strict=True))
        return [places[group.whole] for group in self.layout.groups]

    def written(self, ids: Ids, masks: Sequence[NDArray[np.bool_]], values: Sequence[FloatArray]) -> FloatArray:
        """Logits of rows in one pass with other values in some of their units, all positions.

        Args:
            ids: the rows.
            masks: for each group which units of which row, `[rows, count]`.
            values: for each group `[rows, seq, count, width]`.
        """
        context = self._whole(ids)
        visits = {
            place: _writer(ids.shape, mask, value, group)
            for place, mask, value, group in zip(
                self._places(context, ids.shape), masks, values, self.layout.groups, strict=True
            )
            if mask.any()
        }
        return context.decoder.run(ids, visits=visits)

    def patched(self, block: PatchedBlock, memory: int | None, advance: Advance) -> Iterator[tuple[int, FloatArray]]:
        """Number of a set, counted from 1, and logits of all prompts under it; as 0, those without any replacement.

        All rows of a block run in passes of one shape, because shapes decide how sums are taken: effects are told
        within the block.
        """
        count, seq = block.ids.shape
        rows = self.rows_at_once(seq, memory)
        if count > rows:
            raise AssertionError("a block has more prompts than rows fit into a pass")
        numbers = range(len(block.sets) + 1)
        copies = _evenly(len(numbers), rows // count)
        context = self._context_for(rows, seq)
        tail = np.tile(block.ids[:, block.start :], (copies, 1))
        places = self._places(context, tail.shape)
        self._fill(context.decoder, block, copies)
        for first in numbers[::copies]:
            chunk = numbers[first : first + copies]
            context.decoder.forget(block.start)
            sets = [() if number == 0 else block.sets[number - 1] for number in chunk]
            visits = block.visits(places, self.layout, [*sets, *[()] * (copies - len(chunk))])
            logits = context.decoder.run(tail, block.start, visits)
            yield from zip(chunk, logits.reshape(copies, count, -1), strict=False)
            advance(count * sum(number > 0 for number in chunk))

    def _fill(self, decoder: Decoder, block: PatchedBlock, copies: int) -> None:
        """Puts what no set changes into the caches of all rows."""
        decoder.forget()
        if block.start:
            count = len(block.ids)
            decoder.run(block.ids[:, : block.start])
            for row in range(count, copies * count):
                decoder.copy(row % count, row)

    def _whole(self, ids: Ids) -> _Context:
        context = self._context_for(max(len(ids), self.rows_at_once(ids.shape[1])), ids.shape[1])
        context.decoder.forget()
        return context

    def _context_for(self, rows: int, positions: int) -> _Context:
        """The context at hand, or a larger one in its place."""
        if self._context:
            decoder = self._context[0].decoder
            if rows <= decoder.rows and positions * rows <= decoder.tokens and positions <= decoder.cells:
                return self._context[0]
            self.close()
        decoder = Decoder(self.model, self.cache, rows, positions, self.threads, is_whole=self.is_whole)
        self._context.append(_Context(decoder, self.layout))
        return self._context[0]

    def close(self) -> None:
        """Frees the context."""
        for context in self._context:
            context.decoder.close()
        self._context.clear()

    @property
    def whole(self) -> Layout:
        """The layout of all units, also where some are seen."""
        return self.every or self.layout

    def narrowed(self, layout: Layout) -> Passes:
        """The same, in the same context, of some units.

        Raises:
            SiteError: there are no such units.
        """
        missing = [group.name for group in layout.groups if group.whole not in self.whole.groups]
        if missing:
            raise SiteError(f"{self.model.name} has no {layout.kind}s like those of {listed(missing, 4)}.")
        return replace(self, layout=layout, every=self.whole)

    def of(self, model: LoadedModel) -> Passes:
        """The same for another file."""
        return replace(self, model=model, _context=[])

    def limited(self, most: int) -> Passes:
        """The same with fewer rows in a pass."""
        self.close()
        return replace(self, most=most, _context=[])


class _Context:
    """A decoder, and where values are seen in its graphs."""

    def __init__(self, decoder: Decoder, layout: Layout) -> None:
        self.decoder, self._layout = decoder, layout
        self._known: dict[tuple[bool, bool], list[Place]] = {}

    def places(self, shape: tuple[int, ...]) -> list[Place]:
        """In the graph of rows of that shape; one row, or one token, may be computed in another way.

        What rows have in the cache is dropped where the graph is not known yet.
        """
        several = (shape[0] > 1, shape[1] > 1)
        if several not in self._known:
            nodes = self.decoder.trace(np.zeros([1 + many for many in several], np.int64))
            self._known[several] = FINDERS[self._layout.kind](nodes, self.decoder.model.layers)
            self.decoder.forget()
        return self._known[several]

    def seen(self, ids: Ids, places: Sequence[Place]) -> tuple[FloatArray, list[FloatArray]]:
        """Logits, and what stands at each place, `[rows * seq, width]`; layers' parts may run in any order."""
        found: dict[int, FloatArray] = {}

        def keep(node: int, value: FloatArray) -> bool:
            found[node] = value
            return False

        logits = self.decoder.run(ids, visits={place: partial(keep, place.node) for place in places})
        return logits, [found[place.node] for place in places]


@dataclass(frozen=True)
class PatchedBlock:
    """Prompts of one length, and what replaces units of theirs.

    Attributes:
        ids: of the prompts, `[prompts, seq]`.
        sets: for each run the units that are replaced.
        values: for each group what replaces its units at the last positions, `[prompts, positions, count, width]`.
        start: the first position at which any of that may differ from what a clean run has.
    """

    ids: Ids
    sets: Sequence[Collection[Unit]]
    values: Sequence[FloatArray]
    start: int

    def visits(self, places: Sequence[Place], layout: Layout, sets: Sequence[Collection[Unit]]) -> dict[Place, Visit]:
        """What writes the values of some sets, each on all prompts, into a pass from `start` on."""
        count, seq = self.ids.shape
        visits = {}
        for number, group in enumerate(layout.groups):
            mask = np.zeros((len(sets), group.count), np.bool_)
            for row, units in enumerate(sets):
                mask[row, [index for place, index in units if place == number]] = True
            if mask.any():
                shape = (len(sets) * count, seq - self.start)
                values = np.broadcast_to(self.values[number], (len(sets), *self.values[number].shape))
                values = values.reshape(len(sets) * count, *values.shape[2:])
                visits[places[number]] = _writer(shape, mask.repeat(count, 0), values, group)
        return visits


def _of_group(values: FloatArray, group: Group) -> FloatArray:
    """Of `[..., total, width]` those units that are in the group."""
    return values[..., list(group.numbers), :] if group.of else values


def _writer(shape: tuple[int, ...], mask: NDArray[np.bool_], values: FloatArray, group: Group) -> Visit:
    """Puts values `[rows, positions, count, width]` into the last positions of units `mask`, `[rows, count]`."""

    def write(value: FloatArray) -> bool:
        kept = min(shape[1], values.shape[1])
        units = value.reshape(*shape, group.total, group.width)[:, -kept:]
        chosen = _of_group(units, group)
        np.copyto(chosen, values[:, -kept:], where=mask[:, None, :, None])
        if group.of:  # which was a copy
            units[:, :, list(group.numbers)] = chosen
        return True

    return write


def _evenly(runs: int, most: int) -> int:
    """How many of some runs to make at once, so that they take as few passes as with `most`, and all are full."""
    passes = -(-runs // most)
    return -(-runs // passes)


def _parts(ids: Ids, size: int) -> list[Ids]:
    return [ids[start : start + size] for start in range(0, len(ids), size)]
