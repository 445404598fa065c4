"""What one panel shows: each function draws onto an Axes what the report says of a run, for files and page alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from circuitcheck.report.charts.labels import Point
from circuitcheck.report.charts.style import (
    BAND,
    CATEGORIES,
    DASHES,
    GROUND,
    INK,
    MARKERS,
    MUTED,
    VERDICTS,
    layer_colours,
    plain_ticks,
    say,
    shortened,
    whiskers,
)
from circuitcheck.report.fields import Entry
from circuitcheck.report.words import said_of

SHOWN_RECOVERY = (-0.6, 1.6)
"""Shares of the damage; a curve that leaves this range is cut, because small damage makes any share large."""

FEW = 48
"""Up to so many points are drawn large."""

Unit = Mapping[str, Any]


def units_of(run: Mapping[str, Any]) -> list[Unit]:
    """What a run says of each unit, in the report's order."""
    return list(run.get("units") or ())


def unit_name(unit: Unit) -> str:
    """What a unit is called, such as `3.5` for a head."""
    return str(unit["unit"])


def depth(units: Sequence[Unit]) -> int:
    """How many layers there are."""
    return 1 + max((unit["layer"] for unit in units), default=0)


def is_known(unit: Unit | None) -> bool:
    """Whether a unit's importance was measured."""
    return unit is not None and unit["importance_ref"]["value"] is not None


def has_kinds(unit: Unit) -> bool:
    """Whether it is known what zero and mean ablation of a unit cost."""
    kinds = unit.get("importance_ref_by_kind") or {}
    return all(kinds.get(kind, {}).get("value") is not None for kind in ("mean", "zero"))


def drift_places(run: Mapping[str, Any]) -> list[int]:
    """For each point of the drift against importance, in order, the place of its unit in the report."""
    units = units_of(run)
    return [place for place, unit in enumerate(units) if is_known(unit) and unit["drift"] is not None]


def draw_drift(axes: Axes, run: Mapping[str, Any], layers: int) -> list[Point]:
    """How much each unit matters in the reference, and how far what it writes has drifted.

    Args:
        axes: an empty panel.
        run: its entry in the report.
        layers: of the model, for the colours.

    Returns:
        The points, those that matter most first; in the panel they are its first collection.
    """
    units = [units_of(run)[place] for place in drift_places(run)]
    moved = [unit["drift"] for unit in units if unit["drift"] > 0]
    if not moved:
        say(axes, said_of(run["unit"], "no unit has drifted" if units else "no unit was measured"))
        return []
    still = 0.5 * min(moved)  # a logarithmic axis has no place for units that have not moved at all
    points = [(unit["importance_ref"]["value"], unit["drift"] or still, unit_name(unit)) for unit in units]
    axes.set_yscale("log")
    plain_ticks(axes.yaxis, (1.0,) if max(moved) / min(moved) > 300 else (1.0, 2.0, 5.0))
    values = [x for x, _, _ in points]
    low, high = whiskers(values, [unit["importance_ref"]["interval"] for unit in units])
    _scatter(axes, points, units, layers)
    # One broken line: an artist a unit makes the page of a model with 1,024 heads twice as large.
    across = [end for x, left, right in zip(values, low, high, strict=True) for end in (x - left, x + right, math.nan)]
    axes.plot(across, [y for _, y, _ in points for _ in range(3)], color=MUTED, lw=0.8, alpha=0.6, zorder=2)
    unmoved = [x for x, unit in zip(values, units, strict=True) if not unit["drift"]]
    axes.scatter(unmoved, [still] * len(unmoved), s=56, marker="v", facecolors="none", edgecolors=MUTED, lw=0.7)
    note = "" if len(moved) == len(units) else "; ▽ none"
    axes.set(xlabel="importance, logits (with its interval)", ylabel=f"drift, relative{note}")
    return sorted(points, key=lambda point: -abs(point[0]))


def draw_kinds(axes: Axes, run: Mapping[str, Any], layers: int) -> list[Point]:
    """Each unit's importance in the reference by zero and by mean ablation; takes and gives what `draw_drift` does."""
    units = [unit for unit in units_of(run) if has_kinds(unit)]
    kinds = [unit["importance_ref_by_kind"] for unit in units]
    points = [
        (kind["mean"]["value"], kind["zero"]["value"], unit_name(unit)) for kind, unit in zip(kinds, units, strict=True)
    ]
    _scatter(axes, points, units, layers)
    x, y = [x for x, _, _ in points], [y for _, y, _ in points]
    mean, zero = ([found[kind]["interval"] for found in kinds] for kind in ("mean", "zero"))
    across, up = whiskers(x, mean), whiskers(y, zero)
    axes.errorbar(x, y, xerr=across, yerr=up, fmt="none", ecolor=MUTED, elinewidth=0.6, alpha=0.5, zorder=2)
    axes.axline((0, 0), slope=1, color=MUTED, lw=0.8, ls="--", zorder=1)
    axes.set(xlabel="importance by mean ablation, logits", ylabel="importance by zero ablation, logits")
    return sorted(points, key=lambda point: -max(abs(point[0]), abs(point[1])))


def repair_orders(run: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Order to the points of its curve at which recovery is defined; orders without any are left out."""
    repair = run.get("repair") or {}
    curves = {"random": repair.get("random") or [], **(repair.get("curves") or {})}
    defined = {
        name: [point for point in points if point["recovery"]["value"] is not None] for name, points in curves.items()
    }
    return {name: points for name, points in defined.items() if points and not name.startswith("random-")}


def draw_repair(axes: Axes, run: Mapping[str, Any]) -> None:
    """Share of the damage that the first k units of each order give back, over the band of random ones."""
    orders = repair_orders(run)
    if not orders:
        say(axes, "no damage is resolved,\nso there is nothing to give back")
        return
    for level, dashes in ((0, "-"), (1, "--")):
        axes.axhline(level, color=MUTED, lw=0.8, ls=dashes, zorder=1)
    for place, (name, points) in enumerate(orders.items()):
        _curve(axes, name, points, place - ("random" in orders))
    axes.set_xscale("log")
    plain_ticks(axes.xaxis, (1.0, 2.0, 5.0))
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, SHOWN_RECOVERY[0]), min(high, SHOWN_RECOVERY[1]))
    axes.set(xlabel=said_of(run["unit"], "units repaired"), ylabel="recovery, share of the damage")


def bound_pairs(run: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """`bound` and `estimate` to (predicted, measured) of the prompts that a logarithmic axis can show, in logits."""
    prompts = (run.get("bound") or {}).get("per_prompt") or {}
    measured = prompts.get("degradation") or []
    return {
        name: [(abs(p), abs(m)) for p, m in zip(prompts[name], measured, strict=True) if p and m]
        for name in ("bound", "estimate")
        if prompts.get(name)
    }


def draw_bound(axes: Axes, run: Mapping[str, Any]) -> None:
    """Measured degradation of each prompt against what the first order predicts."""
    series = {name: pairs for name, pairs in bound_pairs(run).items() if pairs}
    numbers = [number for pairs in series.values() for pair in pairs for number in pair]
    ends = (min(numbers) / 1.5, max(numbers) * 1.5)
    axes.set(xscale="log", yscale="log")
    axes.plot(ends, ends, color=INK, lw=1.2, label="equal")
    for colour, marker, (name, pairs) in zip(CATEGORIES, "o^", series.items(), strict=False):
        predicted, found = zip(*pairs, strict=True)
        axes.scatter(predicted, found, c=colour, marker=marker, s=26, lw=0.5, edgecolors=GROUND, label=name)
    axes.set(xlim=ends, ylim=ends)
    for axis in (axes.xaxis, axes.yaxis):
        plain_ticks(axis)
    axes.set(xlabel="predicted from the first order, logits", ylabel="measured degradation, logits")


def draw_metric(axes: Axes, runs: Sequence[Entry]) -> None:
    """The metric of the reference, as a band, and of every candidate of one task, with intervals."""
    reference = runs[0]["metric_ref"]
    axes.axvspan(*reference["interval"], **BAND)
    axes.axvline(reference["value"], color=INK, lw=1, zorder=2)
    for row, run in enumerate(runs):
        metric, (colour, marker) = run["metric_cand"], VERDICTS[run["verdict"]]
        across = whiskers([metric["value"]], [metric["interval"]])
        axes.errorbar([metric["value"]], [row], xerr=across, fmt=marker, color=colour, ms=6, lw=1.3, zorder=3)
    axes.set_yticks(range(len(runs)), [shortened(run["candidate"], 18) for run in runs])
    axes.set_ylim(len(runs) - 0.4, -0.6)
    axes.margins(x=0.12)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("metric (with its interval)")


def draw_tasks(axes: Axes, by_task: Mapping[str, Mapping[str, Unit]], names: Sequence[str], layers: int) -> None:
    """A row for each named unit: its importance in the reference on every task, with intervals."""
    colours, scale = layer_colours(layers)
    for row, name in enumerate(names):
        layer = next(units[name]["layer"] for units in by_task.values() if name in units)
        axes.axhspan(row - 0.5, row + 0.5, 0, 0.012, color=colours(scale(layer)), lw=0)
    for place, (task, units) in enumerate(by_task.items()):
        rows = [row for row, name in enumerate(names) if is_known(units.get(name))]
        values = [units[names[row]]["importance_ref"]["value"] for row in rows]
        axes.errorbar(
            values,
            [row + 0.7 * ((place + 0.5) / len(by_task) - 0.5) for row in rows],
            xerr=whiskers(values, [units[names[row]]["importance_ref"]["interval"] for row in rows]),
            fmt=MARKERS[place % len(MARKERS)],
            color=CATEGORIES[place % len(CATEGORIES)],
            ms=4,
            lw=1,
            label=shortened(task, 24),
        )
    axes.axvline(0, color=MUTED, lw=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.margins(x=0.06)


def _curve(axes: Axes, name: str, points: Sequence[Mapping[str, Any]], place: int) -> None:
    """A random order is a band behind the others; an informed one a line with whiskers, moved aside a little."""
    values, counts = [point["recovery"]["value"] for point in points], [point["k"] for point in points]
    low, high = whiskers(values, [point["recovery"]["interval"] for point in points])
    if name == "random":
        ends = ([value - length for value, length in zip(values, low, strict=True)],
                [value + length for value, length in zip(values, high, strict=True)])  # fmt: skip
        axes.fill_between(counts, *ends, **BAND)
        axes.plot(counts, values, color=MUTED, lw=1.6, label="random, with band", zorder=2)
        return
    axes.errorbar(
        [1.03 ** (place - 2) * count for count in counts],
        values,
        yerr=[low, high],
        color=CATEGORIES[place % len(CATEGORIES)],
        marker=MARKERS[place % len(MARKERS)],
        linestyle=DASHES[place % len(DASHES)],
        ms=3.5,
        lw=1.3,
        elinewidth=0.7,
        label=name,
        zorder=3,
    )


def _scatter(axes: Axes, points: Sequence[Point], units: Sequence[Unit], layers: int) -> None:
    """Points in the colours of their layers."""
    colours, scale = layer_colours(layers)
    axes.scatter(
        [x for x, _, _ in points],
        [y for _, y, _ in points],
        s=26 if len(points) <= FEW else 14,
        c=[unit["layer"] for unit in units],
        cmap=colours,
        norm=scale,
        linewidths=0.6,
        edgecolors=MUTED,
        zorder=3,
    )
    axes.axvline(0, color=MUTED, lw=0.8, zorder=1)
    axes.margins(0.1)
