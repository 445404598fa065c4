"""All figures of a report, as files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, filterwarnings

from circuitcheck.baseline.atomic import write_atomically
from circuitcheck.report.fields import Entry
from circuitcheck.report.figures.style import SETTINGS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESOLUTION = 160
"""Dots an inch of the PNG files."""

METADATA: dict[str, dict[str, Any]] = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
"""What would differ between two runs on the same numbers is left out."""


def draw_figures(document: Mapping[str, Any], directory: Path) -> list[Path]:
    """Writes every figure that the report has numbers for, as SVG and as PNG.

    Args:
        document: the report.
        directory: made if it is missing.

    Returns:
        What was written, in order; nothing if nothing was measured.

    Raises:
        OSError: a file cannot be written.
    """
    written = []
    with drawing():
        for name, figure in figures(document):
            for kind, metadata in METADATA.items():
                target = directory / f"{name}.{kind}"
                content = BytesIO()
                figure.savefig(content, format=kind, metadata=metadata, dpi=RESOLUTION)
                write_atomically({target: content.getvalue()})
                written.append(target)
    return written


@contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib in the style of these figures; a letter that its font lacks is drawn as a box, without a warning."""
    from matplotlib import rc_context

    with rc_context(SETTINGS), catch_warnings():
        filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        yield


def figures(document: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    """File names without their endings, and figures; to be drawn inside `drawing`."""
    from circuitcheck.report.figures import head_figures as heads
    from circuitcheck.report.figures import task_figures as tasks

    measured = [run for run in document["runs"] if run["heads"]]
    if not measured:
        return
    references = list({run["task"]: run for run in measured}.values())
    by_kind = [run for run in references if heads.has_kinds(run)]
    if by_kind:
        yield "zero-mean", heads.zero_against_mean(by_kind)
    yield "task-specificity", heads.task_specificity(references)
    yield "task-degradation", tasks.task_degradation(_grouped(measured, "task"))
    names = _file_names([run["candidate"] for run in measured])
    for candidate, runs in _grouped(measured, "candidate").items():
        yield f"importance-drift-{names[candidate]}", heads.importance_against_drift(candidate, runs)
        repaired = [run for run in runs if run["repair"]]
        if repaired:
            yield f"repair-{names[candidate]}", tasks.repair_curves(candidate, repaired)


def _grouped(runs: list[Entry], key: str) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for run in runs:
        groups.setdefault(run[key], []).append(run)
    return groups


def _file_names(candidates: list[str]) -> dict[str, str]:
    """Candidate to a part of a file name that every file system takes, a different one each."""
    names: dict[str, str] = {}
    for candidate in dict.fromkeys(candidates):
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", candidate).strip("-.")[:60] or "candidate"
        taken = {name.lower() for name in names.values()}
        tries = (plain if number == 1 else f"{plain}-{number}" for number in range(1, len(taken) + 2))
        names[candidate] = next(name for name in tries if name.lower() not in taken)
    return names
