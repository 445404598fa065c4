"""The (candidate, task, unit) triples of a run."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

from circuitcheck.core.candidates import PRECISIONS
from circuitcheck.core.people import plain
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.plugin.settings import Settings


@dataclass(frozen=True)
class Case:
    """One candidate on one task, in units of one kind.

    Attributes:
        number: place among all cases of the run.
        candidate: precision spec or directory.
        task: name or file.
        unit: kind of unit that is measured.
    """

    number: int
    candidate: str
    task: str
    unit: str = MeasurementSpec.unit

    @property
    def candidate_name(self) -> str:
        """The precision, or the directory's own name."""
        return self.candidate if self.is_precision else Path(self.candidate).resolve().name

    @property
    def task_name(self) -> str:
        """The built-in task's name, or the file's without its ending."""
        return Path(self.task).stem

    @property
    def circuit(self) -> str:
        """What is recorded of the reference: the task, and the kind of unit where that is not the default."""
        return self.task_name if self.unit == MeasurementSpec.unit else f"{self.task_name}-{self.unit}"

    @property
    def is_precision(self) -> bool:
        """Whether the candidate is made from the reference, and not a directory of its own."""
        return self.candidate in PRECISIONS

    def __str__(self) -> str:
        """The id that pytest shows."""
        return plain(f"{self.candidate_name}-{self.circuit}")


def cases_of(settings: Settings) -> list[Case]:
    """All cases of a run, candidate by candidate, so that each candidate is loaded once."""
    chosen = product(settings.candidates, settings.tasks, settings.kinds)
    return [Case(number, *names) for number, names in enumerate(chosen)]
