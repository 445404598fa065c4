"""The (candidate, task) pairs of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from circuitcheck.core.candidates import PRECISIONS
from circuitcheck.plugin.settings import Settings


@dataclass(frozen=True)
class Case:
    """One candidate on one task.

    Attributes:
        number: place among all cases of the run.
        candidate: precision spec or directory.
        task: name or file.
    """

    number: int
    candidate: str
    task: str

    @property
    def candidate_name(self) -> str:
        """The precision, or the directory's own name."""
        return self.candidate if self.is_precision else Path(self.candidate).resolve().name

    @property
    def task_name(self) -> str:
        """The built-in task's name, or the file's without its ending."""
        return Path(self.task).stem

    @property
    def is_precision(self) -> bool:
        """Whether the candidate is made from the reference, and not a directory of its own."""
        return self.candidate in PRECISIONS

    def __str__(self) -> str:
        """The id that pytest shows."""
        return f"{self.candidate_name}-{self.task_name}"


def cases_of(settings: Settings) -> list[Case]:
    """All cases of a run, candidate by candidate, so that each candidate is loaded once."""
    pairs = [(candidate, task) for candidate in settings.candidates for task in settings.tasks]
    return [Case(number, candidate, task) for number, (candidate, task) in enumerate(pairs)]
