"""Patches of single units and of given rows, and values of units read from one pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitcheck.core.activations import Activations
from circuitcheck.core.patch import Patch
from circuitcheck.core.progress import Advance, silent
from circuitcheck.core.prompts import Task
from circuitcheck.core.runtime import Work
from circuitcheck.core.specification import Ablation, Positions
from circuitcheck.core.units import Unit
from circuitcheck.runtimes.pytorch.engine.passes import Rows, read_units
from circuitcheck.runtimes.pytorch.engine.sweep import Engine, batch_metric
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.ports.ports import editing_units


def units_of(model: HookedModel, kind: str = "head") -> list[Unit]:
    """All of a model's units of a kind, in order."""
    return list(model.layout(kind).units)


def alone(units: Iterable[Unit]) -> tuple[tuple[Unit, ...], ...]:
    """One set for each unit."""
    return tuple((unit,) for unit in units)


def ablated_metric(
    model: HookedModel,
    task: Task,
    index: Iterable[int],
    ablation: Ablation,
    *,
    kind: str = "head",
    at: Positions = "all",
    units: Sequence[Unit] | None = None,
    most: int | None = None,
    engine: Engine = "replay",
    memory: int | None = None,
    advance: Advance = silent,
    notes: list[str] | None = None,
) -> np.ndarray:
    """M with each unit ablated alone, `[units, prompts]`."""
    patch = Patch(kind, alone(units_of(model, kind) if units is None else units), ablation, at)
    work = Work(memory, advance, [] if notes is None else notes)
    return model.patched(task.prompts(index, most), patch, work, engine=engine)


def repaired_metric(
    model: HookedModel,
    task: Task,
    values: Activations,
    sets: Sequence[Collection[Unit]],
    *,
    kind: str = "head",
    engine: Engine = "replay",
    notes: list[str] | None = None,
) -> np.ndarray:
    """M with given values in each set of units, `[sets, prompts]`, of the prompts that the values are of."""
    work = Work(notes=[] if notes is None else notes)
    return model.patched(task.prompts(values.index), Patch(kind, tuple(sets), values), work, engine=engine)


def patched_rows(
    model: HookedModel,
    ids: Tensor,
    answer: Tensor,
    foil: Tensor,
    values: Sequence[Tensor],
    sets: Sequence[Collection[Unit]],
    *,
    kind: str = "head",
    engine: Engine = "replay",
    memory: int | None = None,
    advance: Advance = silent,
    notes: list[str] | None = None,
    alike: int = 0,
) -> Tensor:
    """M of prompts of one length, given as token ids, with other values in each set of units, `[sets, batch]`."""
    work = Work(memory, advance, [] if notes is None else notes)
    rows = Rows(ids, answer, foil)
    return torch.from_numpy(batch_metric(model, model.ports(kind), rows, values, sets, work, engine, alike))


def read(model: HookedModel, ids: Tensor, kind: str = "head") -> list[Tensor]:
    """Values of all units in one pass, for each group `[batch, seq, count, width]`, in the model's own dtype."""
    return read_units(model, model.ports(kind), ids)


def zeros(model: HookedModel, batch: int, seq: int, kind: str = "head") -> list[Tensor]:
    """Zero for all units, for each group `[batch, seq, count, width]`."""
    return [
        torch.zeros(batch, seq, port.group.count, port.group.width, device=model.device) for port in model.ports(kind)
    ]


@contextmanager
def edited(model: HookedModel, edits: dict[int, Callable[[Tensor], Any]], kind: str = "head") -> Iterator[None]:
    """Each edit of a group is given its units, `[batch, seq, count, width]`, and returns what stands in their place."""

    def edit(place: int, units: Tensor) -> Tensor:
        return edits[place](units).reshape(units.shape)

    with ExitStack() as stack:
        for place in edits:
            port = model.ports(kind)[place]
            stack.enter_context(editing_units(model.module, port, lambda units, place=place: edit(place, units)))
        yield
