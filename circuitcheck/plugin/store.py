"""Where the results of one run lie, so that every process of it measures each case at most once and shows the same."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from circuitcheck.plugin.cases import Case
from circuitcheck.report.fields import Entry


class Store:
    """A temporary folder with one JSON file a case; the process that made it removes it."""

    def __init__(self, directory: Path | None = None) -> None:
        self.is_owner = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="circuitcheck-"))

    def get_or_measure(self, case: Case, measure: Callable[[], Entry]) -> Entry:
        """The case's entry, measured at most once."""
        return self.get_or_make(self._file(case).stem, measure)

    def get_or_make(self, name: str, make: Callable[[], Entry]) -> Entry:
        """What is kept under a name; made by the first process that asks, while the others wait."""
        file = self.directory / f"{name}.json"
        with self.lock(name):
            _make(file, make)
        entry: Entry = json.loads(file.read_text(encoding="utf-8"))
        return entry

    def keep(self, case: Case, entry: Entry) -> None:
        """Keeps a case's entry, unless there is one."""
        self.get_or_measure(case, lambda: entry)

    def measure_if_free(self, case: Case, measure: Callable[[], Entry]) -> None:
        """Measures a case unless another process of the run has, or is about to."""
        self.make_if_free(self._file(case).stem, measure)

    def make_if_free(self, name: str, make: Callable[[], Entry]) -> None:
        """Makes what is to be kept under a name unless another process of the run has, or is about to."""
        from filelock import Timeout

        with suppress(Timeout), self.lock(name, seconds=0):
            _make(self.directory / f"{name}.json", make)

    def made(self, name: str) -> Entry | None:
        """What is kept under a name; None where nothing is."""
        file = self.directory / f"{name}.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None

    @contextmanager
    def lock(self, name: str, seconds: float = -1) -> Iterator[None]:
        """Held by one process of the run at a time; the others wait, at most so long where `seconds` is not below 0.

        Raises:
            filelock.Timeout: it was not to be had in time.
        """
        from filelock import FileLock

        with FileLock(self.directory / f"{name}.lock", seconds):
            yield

    def entries(self, cases: list[Case]) -> list[Entry]:
        """Entries of all cases that were measured, in the order of the cases."""
        files = [self._file(case) for case in cases]
        return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]

    def count(self, name: str, word: str) -> None:
        """Counts something that happened in any process of the run."""
        with (self.directory / f"{name}.counted").open("a", encoding="utf-8") as stream:
            stream.write(f"{word}\n")

    def counts(self, name: str) -> Counter[str]:
        """How often each word was counted."""
        file = self.directory / f"{name}.counted"
        return Counter(file.read_text(encoding="utf-8").split() if file.exists() else ())

    def mark_collected(self) -> None:
        """Notes, for the process that made the folder, that a process of the run has collected tests of the gate."""
        self._collected.touch()

    @property
    def was_collected(self) -> bool:
        """Whether any process of the run has collected tests of the gate."""
        return self._collected.exists()

    def close(self) -> None:
        """Removes the folder, if this process made it."""
        if self.is_owner:
            shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def _collected(self) -> Path:
        return self.directory / "collected"

    def _file(self, case: Case) -> Path:
        return self.directory / f"case-{case.number:04d}.json"


def _make(file: Path, make: Callable[[], Entry]) -> None:
    if not file.exists():
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(make()), encoding="utf-8")
        unfinished.replace(file)
