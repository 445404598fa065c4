"""Figures of whole tasks: repair curves, and what became of the metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from circuitcheck.report.fields import Entry
from circuitcheck.report.figures.style import (
    CATEGORIES,
    INK,
    MARKERS,
    MUTED,
    panels,
    plain_ticks,
    say,
    shortened,
    whiskers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN_RECOVERY = (-0.6, 1.6)
"""Shares of the damage; a curve that leaves this range is cut, because small damage makes any share large."""

VERDICTS = {"PASS": ("#0072b2", "o"), "INCONCLUSIVE": ("#e69f00", "D"), "FAIL": ("#d55e00", "X")}


def repair_curves(candidate: str, runs: Sequence[Entry]) -> Figure:
    """One panel a task: share of the damage that the first k heads of each order give back, and what random ones do.

    Args:
        candidate: name.
        runs: its entries, one a task.
    """
    figure, axes = panels(len(runs), f"Repair: {candidate}", size=(4.2, 3.5))
    for panel, run in zip(axes, runs, strict=True):
        _repair_panel(panel, run)
    handles: dict[str, Any] = {}
    for panel in axes:
        drawn, names = panel.get_legend_handles_labels()
        handles |= dict(zip(names, drawn, strict=True))
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(len(runs) * 2, 6))
    return figure


def task_degradation(by_task: dict[str, list[Entry]]) -> Figure:
    """One panel a task: the metric of the reference and of every candidate, with intervals.

    Args:
        by_task: task to its measured entries.
    """
    rows = max(len(runs) for runs in by_task.values())
    figure, axes = panels(len(by_task), "What became of each task", size=(4.2, 1.6 + 0.3 * rows))
    for panel, (task, runs) in zip(axes, by_task.items(), strict=True):
        _metric_panel(panel, task, runs)
    marks = [_reference_mark(), *(_mark(word) for word in VERDICTS)]
    figure.legend(handles=marks, loc="outside lower center", ncols=4 if len(by_task) > 1 else 2)
    return figure


def _repair_panel(axes: Axes, run: Entry) -> None:
    repair = run["repair"]
    axes.set_title(f"{shortened(run['task'], 30)}: {repair['diagnosis']}")
    curves = {"random": repair.get("random") or [], **repair["curves"]}
    known = {
        name: [point for point in points if point["recovery"] is not None]
        for name, points in curves.items()
        if not name.startswith("random-")
    }
    if not any(known.values()):
        say(axes, "no damage is resolved,\nso there is nothing to give back")
        return
    for place, (name, points) in enumerate(known.items()):
        if points:
            _curve(axes, name, points, place)
    axes.axhline(1, color=MUTED, lw=0.8, ls="--", zorder=1)
    axes.axhline(0, color=MUTED, lw=0.8, zorder=1)
    axes.set_xscale("log")
    plain_ticks(axes.xaxis, (1.0, 2.0, 5.0))
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, SHOWN_RECOVERY[0]), min(high, SHOWN_RECOVERY[1]))
    axes.set(xlabel="heads repaired", ylabel="recovery, share of the damage")


def _curve(axes: Axes, name: str, points: Sequence[dict[str, Any]], place: int) -> None:
    """A random order is a band behind the others; an informed one a line with whiskers, moved aside a little."""
    is_random = name == "random"
    shift = 1.0 if is_random else 1.03 ** (place - 3)
    at, values = [shift * point["k"] for point in points], [point["recovery"] for point in points]
    intervals = [point["interval"] for point in points]
    if is_random:
        low, high = ([value if end is None else end for end, value in zip(ends, values, strict=True)]
                     for ends in zip(*intervals, strict=True))  # fmt: skip
        axes.fill_between(at, low, high, color="#b6bec8", alpha=0.5, lw=0, zorder=1)
        axes.plot(at, values, color=MUTED, lw=1.6, label="random, with band", zorder=2)
        return
    colour = CATEGORIES[(place - 1) % len(CATEGORIES)]
    axes.errorbar(
        at,
        values,
        yerr=whiskers(values, intervals),
        color=colour,
        marker=MARKERS[(place - 1) % len(MARKERS)],
        ms=3.5,
        lw=1.3,
        elinewidth=0.7,
        label=name.replace(" x ", " × "),
        zorder=3,
    )


def _metric_panel(axes: Axes, task: str, runs: Sequence[Entry]) -> None:
    reference = runs[0]["metric_ref"]
    low, high = reference["interval"]
    axes.axvspan(low, high, color="#b6bec8", alpha=0.4, lw=0, zorder=1)
    axes.axvline(reference["value"], color=INK, lw=1, zorder=2)
    for row, run in enumerate(runs):
        metric = run["metric_cand"]
        colour, marker = VERDICTS[run["verdict"]]
        axes.errorbar(
            [metric["value"]],
            [row],
            xerr=whiskers([metric["value"]], [metric["interval"]]),
            fmt=marker,
            color=colour,
            ms=6,
            lw=1.3,
            zorder=3,
        )
    axes.set_title(shortened(task, 30))
    axes.set_yticks(range(len(runs)), [shortened(run["candidate"], 18) for run in runs])
    axes.set_ylim(len(runs) - 0.4, -0.6)
    axes.margins(x=0.12)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("metric (95 % interval)")


def _reference_mark() -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=INK, lw=1, label="reference, with band")


def _mark(word: str) -> Any:
    from matplotlib.lines import Line2D

    colour, marker = VERDICTS[word]
    return Line2D([], [], color=colour, marker=marker, ls="none", ms=6, label=word)
