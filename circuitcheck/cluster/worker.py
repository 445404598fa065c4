"""The far side: a process that loads a model once, keeps it, and carries out parts of patches or whole cases."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from circuitcheck.core.activations import Activations
from circuitcheck.core.errors import CircuitcheckError, ModelError
from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import Prompts
from circuitcheck.core.runtime import Portable, Runtime, Work
from circuitcheck.core.versions import installed
from circuitcheck.gate.parts import Finished

T = TypeVar("T")


@dataclass(frozen=True)
class Recipe:
    """How a worker comes to the model that the driver has.

    Attributes:
        name: what it is called, in messages and to tell it from others.
        load: loads it.
        threads: that many computing threads, for as long as a block runs.
    """

    name: str
    load: Callable[[], Runtime]
    threads: Callable[[int], AbstractContextManager[None]]


@dataclass(frozen=True)
class Job:
    """One part of a patch, as it is sent.

    Attributes:
        recipe: of the model.
        weights: fingerprint of the driver's.
        state: everything else that the driver's model is.
        rounding: which of the reference's roundings it is; empty for none.
        prompts: the prompts.
        patch: with the sets of this part; given values are sent apart, once for all parts.
        memory: budget in bytes.
        threads: how many compute.
    """

    recipe: Recipe
    weights: str
    state: Mapping[str, Any]
    rounding: str
    prompts: Prompts
    patch: Patch
    memory: int | None
    threads: int


Measures = Callable[[Any], Any]
"""Measures one whole case, as it is sent, and gives what can be sent back."""


@dataclass(frozen=True)
class Ran(Generic[T]):
    """What came of a part or of a case, and what it took.

    Attributes:
        result: of a part m and notes; of a case what `Measures` gave.
        seconds: that it took.
        memory: the most bytes that the worker's process has had.
    """

    result: T
    seconds: float
    memory: int


class Worker:
    """Keeps the model that it was asked for last, and the last rounded copy of it.

    Args:
        node: says where it is.
    """

    def __init__(self, node: Callable[[], str] = str) -> None:
        self._node = node
        self._loaded: tuple[str, Runtime] | None = None
        self._rounded: tuple[str, Runtime] | None = None
        self._measures: Measures | None = None

    def hello(self) -> dict[str, str]:
        """What is installed here, name to version, the process, and where it is."""
        return {**installed(), "process": str(os.getpid()), "node": self._node()}

    def measure(self, start: Callable[[], Measures], case: Any) -> Ran[Any]:
        """Measures a whole case, with what measured those before it.

        Args:
            start: makes what measures cases; asked once, for it keeps the models.
            case: what it takes.

        Raises:
            CircuitcheckError: as `start` and what it makes do.
        """
        began = time.perf_counter()
        self._loaded = self._rounded = None
        if self._measures is None:
            self._measures = start()
        return Ran(self._measures(case), time.perf_counter() - began, _peak())

    def run(self, job: Job, values: Activations | None) -> Ran[Finished]:
        """Carries out a part.

        Args:
            job: the part.
            values: what the patch puts in, where that is given.

        Raises:
            CircuitcheckError: as loading the model and `Runtime.patched` do; or the model is another one here.
        """
        start = time.perf_counter()
        self._measures = None
        base = self._model(job)
        assert isinstance(base, Portable)
        model = base.with_state(job.state)
        patch = job.patch if values is None else replace(job.patch, values=values)
        work = Work(job.memory)
        with job.recipe.threads(job.threads), model.unchanged():
            metric = model.patched(job.prompts, patch, work)
        return Ran(Finished(metric, tuple(work.notes)), time.perf_counter() - start, _peak())

    def _model(self, job: Job) -> Runtime:
        name = job.recipe.name
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = self._rounded = None
            try:
                model = job.recipe.load()
            except CircuitcheckError as error:
                raise ModelError(
                    f"a worker cannot load {name}: {error} All machines of a cluster must see it under one path."
                ) from error
            found = model.facts.fingerprints.get("weights", "")
            if found != job.weights:
                raise ModelError(
                    f"a worker sees another {name} than this process: weights {found[:12]}, not {job.weights[:12]}. "
                    "Give the same files to all machines."
                )
            self._loaded = name, model
        if not job.rounding:
            return self._loaded[1]
        if self._rounded is None or self._rounded[0] != job.rounding:
            self._rounded = None
            makes = {f"{one.precision}: {one.name}": one.make for one in self._loaded[1].roundings()}
            self._rounded = job.rounding, makes[job.rounding]()
        return self._rounded[1]


def _peak() -> int:
    """The most bytes that this process has had."""
    try:
        import resource
    except ImportError:  # not on this system
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
