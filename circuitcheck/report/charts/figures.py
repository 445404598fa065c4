"""All figures of a report, as files."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from operator import itemgetter
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from circuitcheck.baseline.atomic import write_atomically
from circuitcheck.report.charts import drawings, histograms
from circuitcheck.report.charts.labels import label_points
from circuitcheck.report.charts.style import INK, VERDICTS, drawing, layer_bar, shortened
from circuitcheck.report.fields import Entry
from circuitcheck.report.words import kinds_of, said_of, task_of

RESOLUTION = 160
"""Dots an inch of the PNG files."""

METADATA: dict[str, dict[str, Any]] = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
"""What would differ between two runs on the same numbers is left out."""

COLUMNS = 3
NAMED = 10
"""Units named in a panel."""

ROWS = 24
"""Units shown in the figure of task specificity."""


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


def figures(document: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    """File names without their endings, and figures; to be drawn inside `drawing`."""
    measured = [run for run in document["runs"] if drawings.units_of(run)]
    if not measured:
        return
    references = list({task_of(run): run for run in measured}.values())  # the same numbers for every candidate
    by_kind = [run for run in references if any(map(drawings.has_kinds, drawings.units_of(run)))]
    if by_kind:
        title = "Importance by zero and by mean ablation, reference"
        yield "zero-mean", _scatter_panels(title, by_kind, drawings.draw_kinds, lambda run: shortened(task_of(run), 30))
    yield "task-specificity", _task_specificity(references)
    yield "task-degradation", _task_degradation(_grouped(measured, task_of))
    names = _file_names([run["candidate"] for run in measured])
    for candidate, runs in _grouped(measured, itemgetter("candidate")).items():
        title = f"Importance against drift: {candidate}"
        yield f"importance-drift-{names[candidate]}", _scatter_panels(title, runs, drawings.draw_drift, _association)
        yield from _of_modules_and_many(names[candidate], candidate, runs)
        repaired = [run for run in runs if run["repair"]]
        if repaired:
            yield f"repair-{names[candidate]}", _repair_curves(candidate, repaired)


def _of_modules_and_many(name: str, candidate: str, runs: Sequence[Entry]) -> Iterator[tuple[str, Figure]]:
    """Where damage is by layer and module, and how all of many units are distributed."""
    placed = [run for run in runs if histograms.modules_of(run)]
    if placed:
        figure, axes = _panels(len(placed), f"Damage by module: {candidate}", (4.2, 3.2))
        for panel, run in zip(axes, placed, strict=True):
            panel.set_title(shortened(task_of(run), 30))
            histograms.draw_placing(panel, run)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        yield f"modules-{name}", figure
    some = [run for run in runs if run.get("population")]
    if some:
        pairs = [(run, what) for run in some for what in histograms.HISTOGRAMS]
        figure, axes = _panels(len(pairs), f"All units: {candidate}", (4.2, 3.2))
        for panel, (run, what) in zip(axes, pairs, strict=True):
            panel.set_title(shortened(task_of(run), 30))
            histograms.draw_histogram(panel, run, what)
        yield f"all-{name}", figure
    read = [run for run in runs if run.get("features")]
    if read:
        pairs = [(run, what) for run in read for what in histograms.OF_FEATURES]
        figure, axes = _panels(len(pairs), f"Features: {candidate}", (4.2, 3.2))
        for panel, (run, what) in zip(axes, pairs, strict=True):
            panel.set_title(shortened(task_of(run), 30))
            histograms.draw_features(panel, run, what)
        yield f"features-{name}", figure


def _scatter_panels(
    title: str, runs: Sequence[Entry], draw: Callable[..., Any], titled: Callable[[Entry], str]
) -> Figure:
    """One panel a task with one point a unit, coloured by layer; the most important ones are named."""
    figure, axes = _panels(len(runs), title, (4.2, 3.8))
    layers = max(drawings.depth(drawings.units_of(run)) for run in runs)
    drawn = [(panel, draw(panel, run, layers), NAMED) for panel, run in zip(axes, runs, strict=True)]
    for panel, run in zip(axes, runs, strict=True):
        panel.set_title(titled(run))
    layer_bar(figure, axes, layers)
    label_points(figure, drawn)
    return figure


def _repair_curves(candidate: str, runs: Sequence[Entry]) -> Figure:
    figure, axes = _panels(len(runs), f"Repair: {candidate}", (4.2, 3.5))
    handles: dict[str, Any] = {}
    for panel, run in zip(axes, runs, strict=True):
        panel.set_title(f"{shortened(task_of(run), 30)}: {run['repair']['diagnosis']}")
        drawings.draw_repair(panel, run)
        drawn, names = panel.get_legend_handles_labels()
        handles |= dict(zip(names, drawn, strict=True))
    if handles:
        columns = min(len(runs) * 2, 6)
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, handlelength=2.6)
    return figure


def _task_degradation(by_task: Mapping[str, Sequence[Entry]]) -> Figure:
    """One panel a task: the metric of the reference and of every candidate."""
    rows = max(len(runs) for runs in by_task.values())
    figure, axes = _panels(len(by_task), "What became of each task", (4.2, 1.6 + 0.3 * rows))
    for panel, (task, runs) in zip(axes, by_task.items(), strict=True):
        panel.set_title(shortened(task, 30))
        drawings.draw_metric(panel, runs)
    marks = [Line2D([], [], color=INK, lw=1, label="reference, with band")]
    marks += [
        Line2D([], [], color=colour, marker=marker, ls="none", ms=6, label=word)
        for word, (colour, marker) in VERDICTS.items()
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=4 if len(by_task) > 1 else 2)
    return figure


def _task_specificity(runs: Sequence[Entry]) -> Figure:
    """A row for each of the units that matter most to one of the tasks."""
    by_task = {task_of(run): {drawings.unit_name(unit): unit for unit in drawings.units_of(run)} for run in runs}
    shares: dict[str, float] = {}
    for units in by_task.values():
        known = {name: abs(unit["importance_ref"]["value"]) for name, unit in units.items() if drawings.is_known(unit)}
        largest = max(known.values(), default=0.0) or 1.0
        for name in units:  # on the task that needs the unit most, relative to that task's most important unit
            shares[name] = max(shares.get(name, 0.0), known.get(name, 0.0) / largest)
    shown = set(sorted(shares, key=lambda name: -shares[name])[:ROWS])
    names = [name for name in shares if name in shown]
    kinds, title = kinds_of(runs), "Which tasks use which units, reference"
    figure, (axes,) = _panels(1, said_of(kinds, title), (6.6, 1.4 + 0.24 * len(names)))
    layers = max(drawings.depth(list(units.values())) for units in by_task.values())
    drawings.draw_tasks(axes, by_task, names, layers)
    left_out = f"; the {len(names)} largest of {len(shares)} units" if len(names) < len(shares) else ""
    axes.set(xlabel=said_of(kinds, f"importance, logits (with its interval){left_out}"), ylabel=said_of(kinds, "unit"))
    figure.legend(loc="outside lower center", ncols=min(len(by_task), 3))
    layer_bar(figure, [axes], layers)
    return figure


def _panels(count: int, title: str, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels of a size in inches, at most three in a row."""
    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(size[0] * columns + 0.8, size[1] * rows + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(shortened(title, 34 * columns + 20), fontsize=11, fontweight="bold")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for unused in axes[count:]:
        unused.set_visible(False)
    return figure, axes[:count]


def _association(run: Entry) -> str:
    """The task, and whether its important units drift more, in numbers."""
    task = shortened(task_of(run), 30)
    found = (run.get("associations") or {}).get("resample")
    if not found or found["raw"]["value"] is None or found["within_layers"]["value"] is None:
        return f"{task}\ncorrelation undefined"
    p = "" if found["p_within_layers"] is None else f" (p = {found['p_within_layers']:.2g})"
    return f"{task}\nρ = {found['raw']['value']:.2f}, within layers {found['within_layers']['value']:.2f}{p}"


def _grouped(runs: list[Entry], key: Callable[[Entry], str]) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
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
