"""What files of baselines are called; light, so that names can be checked before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from circuitcheck.core.errors import BaselineError
from circuitcheck.core.specification import MeasurementSpec

MOST_NAME = 150
"""Bytes of a task's name."""


def baseline_file(directory: Path, task: str, unit: str = MeasurementSpec.unit) -> Path:
    """The JSON file of a task: `ioi.json`, or `ioi.block.json` for another kind of unit.

    Raises:
        BaselineError: no file can be called like the task.
    """
    is_plain = task.isprintable() and not task.startswith(".") and not {"/", "\\"} & {*task}
    if not task or not is_plain or len(task.encode(errors="replace")) > MOST_NAME:
        raise BaselineError(
            f"no golden baseline can be called {task[:MOST_NAME]!r}, like its task. Give the task a name of letters, "
            "digits, hyphens and underscores."
        )
    return directory / (f"{task}.json" if unit == MeasurementSpec.unit else f"{task}.{unit}.json")
