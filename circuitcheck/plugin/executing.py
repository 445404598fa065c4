"""How a run carries out patches, where that is not in one go: with finished rows kept in a folder."""

from __future__ import annotations

from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from circuitcheck.plugin.settings import Settings
from circuitcheck.plugin.store import Store

if TYPE_CHECKING:
    from circuitcheck.core.runtime import Execute

RESUMED = "resumed"
"""The store's name for what became of kept rows."""

KERNELS = ("torchao", "bitsandbytes", "compressed-tensors", "llama-cpp-python", "onnxruntime")
"""Packages whose kernels candidates may run in, where they are installed."""


class Execution:
    """What carries out the patches of one pytest process.

    Args:
        settings: what the run is to do.
        store: is told what became of rows that were looked for.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store

    @cached_property
    def execute(self) -> Execute | None:
        """Carries out patches; None where models do, all at once."""
        if self._settings.resume is None:
            return None
        from circuitcheck.gate.kept_rows import KeptRows
        from circuitcheck.gate.parts import InParts
        from circuitcheck.runtimes.pytorch.threads import thread_count

        tell = partial(self._store.count, RESUMED)
        return InParts(KeptRows(self._settings.resume, code_of_run(), thread_count, tell))

    @property
    def line(self) -> str:
        """What the run says of rows that it found or kept; empty where it kept none."""
        if self._settings.resume is None:
            return ""
        counts = self._store.counts(RESUMED)
        found, damaged = counts["found"], counts["damaged"]
        made = counts["missing"] + damaged
        line = f"{self._settings.resume}: {found} of {found + made} parts of sweeps were finished before this run"
        return line + (f"; {damaged} were damaged, and were measured again." if damaged else ".")


def code_of_run() -> dict[str, str]:
    """Everything installed that numbers depend on, name to version; of this package the code itself."""
    from circuitcheck.core.versions import code_fingerprint, versions

    known = versions()
    found = {"code": code_fingerprint(), "python": known["python"], **known["libraries"]}
    return found | {name: _version(name) for name in KERNELS}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
