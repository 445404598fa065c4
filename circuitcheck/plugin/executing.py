"""How a run carries out patches, where that is not in one go: finished rows kept in a folder, workers on a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitcheck.plugin.cases import Case
from circuitcheck.plugin.far_cases import Found, start_measuring
from circuitcheck.plugin.models import load_named
from circuitcheck.plugin.settings import Settings
from circuitcheck.plugin.store import Store

if TYPE_CHECKING:
    from circuitcheck.cluster.pool import Pool
    from circuitcheck.core.runtime import Execute
    from circuitcheck.gate.kept_rows import KeptRows
    from circuitcheck.gate.parts import Carry

CASES_A_WORKER = 2
"""Fewest cases for each worker for which they are dealt whole."""

RESUMED = "resumed"
"""The store's name for what became of kept rows."""


class Execution:
    """What carries out the patches of one pytest process.

    Args:
        settings: what the run is to do.
        store: is told what became of rows that were looked for.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._started: Pool | None = None

    def of(self, candidate: str | None) -> Execute | None:
        """Carries out patches on a candidate, by its name in the settings, or on the reference.

        Returns:
            None where models do, all at once.

        Raises:
            ConfigurationError: the cluster cannot be used.
        """
        if self._settings.resume is None and self._settings.ray is None:
            return None
        from circuitcheck.gate.parts import InParts

        return InParts(self._kept, self._carry(candidate))

    @cached_property
    def _kept(self) -> KeptRows | None:
        if self._settings.resume is None:
            return None
        from circuitcheck.core.versions import installed
        from circuitcheck.gate.kept_rows import KeptRows
        from circuitcheck.runtimes.pytorch.threads import thread_count

        return KeptRows(self._settings.resume, installed(), thread_count, partial(self._store.count, RESUMED))

    def _carry(self, candidate: str | None) -> Carry | None:
        if self._settings.ray is None:
            return None
        from circuitcheck.cluster.worker import Recipe
        from circuitcheck.runtimes.pytorch.threads import computing_threads

        load = partial(load_named, _sent(self._settings), None if candidate is None else _whole(candidate))
        return partial(self._pool().carry, Recipe(candidate or self._settings.model, load, computing_threads))

    def measured_elsewhere(self, cases: Sequence[Case]) -> Iterator[tuple[Case, Found]]:
        """Cases that workers measure whole, and what came of each, as they come.

        There are none where the cases are too few: rows of their sweeps keep all workers busy to the end.

        Raises:
            CircuitcheckError: the cluster cannot be used, or a worker cannot measure.
        """
        pool = self._pool()
        if len(cases) < CASES_A_WORKER * pool.count:
            return iter(())
        settings = replace(self._settings, ray=None, compare=None, shard=None)
        found = pool.measure(partial(start_measuring, settings, str(Path.cwd())), cases)
        return ((cases[number], one) for number, one in found)

    def _pool(self) -> Pool:
        from circuitcheck.cluster.pool import Pool
        from circuitcheck.runtimes.pytorch.threads import thread_count

        if self._started is None:
            assert self._settings.ray is not None
            pool = Pool(self._settings.ray, thread_count())
            pool.start()
            self._started = pool
        return self._started

    @property
    def workers(self) -> list[dict[str, Any]]:
        """What the report says of each worker; none where there were none."""
        return [] if self._started is None else [place.shown() for place in self._started.places]

    @property
    def lines(self) -> list[str]:
        """What the run says of rows that it found or kept, and of its workers."""
        return [*self._of_resumed(), *map(_of_worker, self.workers)]

    def close(self) -> None:
        """Ends the workers."""
        if self._started is not None:
            self._started.close()
            self._started = None

    def _of_resumed(self) -> list[str]:
        if self._settings.resume is None:
            return []
        counts = self._store.counts(RESUMED)
        found, damaged = counts["found"], counts["damaged"]
        made = counts["missing"] + damaged
        line = f"{self._settings.resume}: {found} of {found + made} parts of sweeps were finished before this run"
        return [line + (f"; {damaged} were damaged, and were measured again." if damaged else ".")]


def _of_worker(worker: dict[str, Any]) -> str:
    whole = len(worker["cases"])
    cases = f"{whole} whole case{'s' * (whole > 1)}, " if whole else ""
    line = (
        f"worker {worker['process']} on node {worker['node']}: {cases}{worker['parts']} parts of sweeps, "
        f"{worker['rows']} rows, {worker['seconds']:.1f} s, {worker['memory'] / 2**20:.0f} MiB"
    )
    return f"{line}; lost ({worker['ended']})" if worker["ended"] else line


def _sent(settings: Settings) -> Settings:
    """The settings for processes elsewhere: whatever lies here has its whole path."""
    return replace(
        settings,
        model=_whole(settings.model),
        candidates=tuple(map(_whole, settings.candidates)),
        units=tuple(map(_whole_unit, settings.units)),
        compare=None,
        limits={},
    )


def _whole_unit(unit: str) -> str:
    kind, _, path = unit.partition(":")
    return f"{kind}:{_whole(path)}" if path else kind


def _whole(name: str) -> str:
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name
