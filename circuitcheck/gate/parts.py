"""Carrying out patches in parts: what is finished may be kept, and what is not may be carried out elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import Prompts
from circuitcheck.core.runtime import Divides, Part, Runtime, Work

LEAST = 2e10
"""Products of two numbers that a part has at the least: a second or so of one slow core. Each part runs the clean pass
anew, and what a kill costs is what was done of one part."""


@dataclass(frozen=True)
class Finished:
    """What came of one part.

    Attributes:
        metric: m, float32 `[sets, prompts]` of the part.
        notes: what a reader of the report must know of how it was run.
    """

    metric: NDArray[np.float32]
    notes: tuple[str, ...] = ()


class Keeps(Protocol):
    """Where finished parts are kept."""

    def addresses(self, model: Runtime, patch: Patch, parts: Sequence[Part], work: Work) -> list[str] | None:
        """Of each part what it is found by; None where nothing of the model can be kept."""

    def find(self, address: str, shape: tuple[int, int]) -> Finished | None:
        """What is kept of a part, m of that shape; None where nothing is, or nothing that is whole."""

    def keep(self, address: str, finished: Finished) -> None:
        """Keeps a part."""


Carry = Callable[[Runtime, Patch, Sequence[Part], Work], Iterable[tuple[int, Finished]]]
"""Carries out parts of a patch: gives the number of each, and what came of it, in any order."""


@dataclass(frozen=True)
class InParts:
    """Carries out patches in parts; see `circuitcheck.core.runtime.Execute`.

    Attributes:
        kept: where finished parts are kept; nowhere by default.
        carry: what carries out the others; by default this process, one after the other.
        least: what a part costs at the least, in products of two numbers.
    """

    kept: Keeps | None = None
    carry: Carry | None = None
    least: float = LEAST

    def __call__(self, model: Runtime, prompts: Prompts, patch: Patch, work: Work) -> NDArray[np.float32]:
        """M of every prompt under every set of the patch, `[sets, prompts]`.

        Raises:
            CircuitcheckError: as `Runtime.patched`, or what is kept cannot be used or written.
        """
        parts = parts_of(model, prompts, patch, self.least)
        addresses = None if self.kept is None else self.kept.addresses(model, patch, parts, work)
        found: dict[int, Finished] = {}
        if self.kept is not None and addresses is not None:
            for number, part in enumerate(parts):
                if (kept := self.kept.find(addresses[number], _shape(part))) is not None:
                    found[number] = kept
                    work.advance(kept.metric.size)
        missing = [number for number in range(len(parts)) if number not in found]
        for place, finished in (self.carry or here)(model, patch, [parts[number] for number in missing], work):
            number = missing[place]
            found[number] = finished
            if self.kept is not None and addresses is not None:
                self.kept.keep(addresses[number], finished)
        metric = np.empty((len(patch.sets), len(prompts)), np.float32)
        for number, part in enumerate(parts):
            columns = [prompts.columns[place] for place in part.prompts.index]
            metric[np.ix_(part.sets, columns)] = found[number].metric
            add_notes(work.notes, found[number].notes)
        return metric


def here(model: Runtime, patch: Patch, parts: Sequence[Part], work: Work) -> Iterator[tuple[int, Finished]]:
    """Carries out parts in this process, one after the other."""
    for number, part in enumerate(parts):
        own = Work(work.memory, work.advance)
        yield number, Finished(model.patched(part.prompts, part.of(patch), own), tuple(own.notes))


def parts_of(model: Runtime, prompts: Prompts, patch: Patch, least: float = LEAST) -> Sequence[Part]:
    """The parts that a model's runtime can carry out alone; one where it cannot divide."""
    if isinstance(model, Divides):
        return joined(model.parts(prompts, patch), least)
    return [Part(prompts, tuple(range(len(patch.sets))))]


def joined(parts: Sequence[Part], least: float = LEAST) -> list[Part]:
    """Parts that cost enough each, as far as there are such: first more sets of the same prompts, then more prompts.

    Args:
        parts: those of the same prompts one behind the other.
        least: what one costs.
    """
    of_prompts: list[list[Part]] = []
    for part in parts:
        if of_prompts and of_prompts[-1][0].prompts == part.prompts:
            of_prompts[-1].append(part)
        else:
            of_prompts.append([part])
    found: list[Part] = []
    for same in of_prompts:
        rows = _gathered(same, least)
        # Only what has all sets can be joined with other prompts: rows of a part are all pairs of its two sides.
        if found and len(rows) == 1 and found[-1].cost < least and found[-1].sets == rows[0].sets:
            found[-1] = _more_prompts(found[-1], rows[0])
        else:
            found += rows
    return found


def _gathered(parts: Sequence[Part], least: float) -> list[Part]:
    """Parts of the same prompts joined until each costs enough; a rest that does not goes to the last one."""
    found: list[Part] = []
    for part in parts:
        if found and found[-1].cost < least:
            found[-1] = _more_sets(found[-1], part)
        else:
            found.append(part)
    if len(found) > 1 and found[-1].cost < least:
        rest = found.pop()
        found[-1] = _more_sets(found[-1], rest)
    return found


def _more_sets(part: Part, other: Part) -> Part:
    return Part(part.prompts, (*part.sets, *other.sets), part.cost + other.cost)


def _more_prompts(part: Part, other: Part) -> Part:
    index = (*part.prompts.index, *other.prompts.index)
    return Part(replace(part.prompts, index=index), part.sets, part.cost + other.cost)


def add_notes(notes: list[str], more: Iterable[str]) -> None:
    """Adds what is not said yet; of notes that only differ in their reasons, the first stays."""
    for note in more:
        if not any(_said(note) == _said(known) for known in notes):
            notes.append(note)


def _said(note: str) -> str:
    return re.split(", because |; ", note, maxsplit=1)[0]


def _shape(part: Part) -> tuple[int, int]:
    return len(part.sets), len(part.prompts)
