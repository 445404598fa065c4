"""What one panel shows of whole modules, and of all units of a kind that has too many to show each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from circuitcheck.report.charts.style import BAND, CATEGORIES, MUTED
from circuitcheck.report.words import said_of

HISTOGRAMS = {"drift": "drift, relative", "correlation": "correlation of both sides"}
"""What is known of all units, to what its axis is called."""

OF_FEATURES = {"correlation": "correlation of both sides", "difference": "relative difference"}
"""The same of a dictionary's features, over all tokens."""

SIDES = ("attention", "MLP")
MOST_LEFT = 1.5
"""Share of the damage; a bar that is longer is cut, because small damage makes any share large."""


def modules_of(run: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """What a run says of each module."""
    return (run.get("placing") or {}).get("modules") or ()


def draw_placing(axes: Axes, run: Mapping[str, Any]) -> None:
    """For each layer, what repairing its attention or its MLP alone leaves of the damage."""
    modules = modules_of(run)
    columns = sorted({module["column"] for module in modules})
    width = 0.8 / len(columns)
    for number, column in enumerate(columns):
        bars = [module for module in modules if module["column"] == column]
        places = [module["layer"] + (number - (len(columns) - 1) / 2) * width for module in bars]
        heights = [min(module["left"] or 0.0, MOST_LEFT) for module in bars]
        axes.bar(places, heights, width, color=CATEGORIES[number % len(CATEGORIES)], label=SIDES[column % len(SIDES)])
    axes.axhline(1, color=MUTED, lw=0.8, ls="--")
    axes.locator_params(axis="x", integer=True)
    axes.set(xlabel="layer", ylabel="left when it alone is repaired", ylim=(0, MOST_LEFT))


def draw_histogram(axes: Axes, run: Mapping[str, Any], name: str) -> None:
    """How many of all units have a drift, or a correlation, in each bin; outer bins hold whatever lies beyond."""
    _histogram(axes, run["population"][name], HISTOGRAMS[name], said_of(run["unit"], "units"))


def draw_features(axes: Axes, run: Mapping[str, Any], name: str) -> None:
    """The same of a task's features, over all tokens."""
    _histogram(axes, run["features"][name], OF_FEATURES[name], "features")


def _histogram(axes: Axes, found: Mapping[str, Any], label: str, units: str) -> None:
    counts, edges = found["counts"], found["edges"]
    used = [place for place, count in enumerate(counts) if count]
    first, last = (used[0], used[-1]) if used else (0, len(counts) - 1)
    shown = range(first, last + 1)
    axes.bar(range(len(shown)), [counts[place] for place in shown], 0.9, **BAND)
    labels = [_edge(edges[place]) for place in (*shown, last + 1)]
    every = max(1, len(labels) // 7)
    places = range(0, len(labels), every)
    axes.set_xticks([place - 0.5 for place in places], [labels[place] for place in places])
    axes.set_yscale("symlog", linthresh=1)
    axes.set(xlabel=label, ylabel=units)


def _edge(value: float | None) -> str:
    return "more" if value is None else f"{value:g}"
