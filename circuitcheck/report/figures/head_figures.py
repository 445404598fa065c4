"""Figures with one point a head: importance against drift, zero against mean ablation, importance across tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from circuitcheck.report.fields import Entry
from circuitcheck.report.figures.labels import Point, label_points
from circuitcheck.report.figures.style import (
    CATEGORIES,
    MARKERS,
    MUTED,
    depth,
    head_name,
    layer_bar,
    layer_colours,
    panels,
    plain_ticks,
    say,
    shortened,
    whiskers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = 10
"""Heads named in a panel."""

ROWS = 24
"""Heads shown in the figure of task specificity."""

SMALL, FAINT = 14.0, 0.85
Heads = Sequence[Mapping[str, Any]]


def importance_against_drift(candidate: str, runs: Sequence[Entry]) -> Figure:
    """One panel a task: how much each head matters in the reference, and how far the candidate's z has drifted.

    Args:
        candidate: name.
        runs: its entries, one a task.
    """
    figure, axes = panels(len(runs), f"Importance against drift: {candidate}", size=(4.2, 3.7))
    layers = max(depth(run["heads"]) for run in runs)
    drawn = [(panel, _drift_panel(panel, run, layers), NAMED) for panel, run in zip(axes, runs, strict=True)]
    layer_bar(figure, axes, layers)
    label_points(figure, drawn)
    return figure


def zero_against_mean(runs: Sequence[Entry]) -> Figure:
    """One panel a task: each head's importance in the reference by zero and by mean ablation.

    Args:
        runs: entries, one a task; the reference's numbers are the same for every candidate.
    """
    figure, axes = panels(len(runs), "Importance by zero and by mean ablation, reference", size=(4.2, 3.9))
    layers = max(depth(run["heads"]) for run in runs)
    drawn = [(panel, _kinds_panel(panel, run, layers), NAMED) for panel, run in zip(axes, runs, strict=True)]
    layer_bar(figure, axes, layers)
    label_points(figure, drawn)
    return figure


def has_kinds(run: Entry) -> bool:
    """Whether the entry says what each kind of ablation costs."""
    return any(_kinds(head) for head in run["heads"])


def task_specificity(runs: Sequence[Entry]) -> Figure:
    """A row for each of the most important heads: its importance on every task, with intervals.

    Args:
        runs: entries, one a task; the reference's numbers are the same for every candidate.
    """
    by_task = {run["task"]: {head_name(head): head for head in run["heads"]} for run in runs}
    places = {name: head for heads in by_task.values() for name, head in heads.items()}
    size = {name: _largest_share(name, by_task) for name in places}
    shown = sorted(places, key=lambda name: -size[name])[:ROWS]
    shown.sort(key=lambda name: (places[name]["layer"], places[name]["head"]))
    figure, (axes,) = panels(1, "Which tasks use which heads, reference", size=(6.6, 1.4 + 0.24 * len(shown)))
    layers = depth(places.values())
    colours, scale = layer_colours(layers)
    for row, name in enumerate(shown):
        axes.axhspan(row - 0.5, row + 0.5, 0, 0.012, color=colours(scale(places[name]["layer"])), lw=0)
    width = 0.7 / max(len(by_task), 1)
    for place, (task, heads) in enumerate(by_task.items()):
        rows = [row for row, name in enumerate(shown) if _is_known(heads.get(name))]
        values = [heads[shown[row]]["importance_ref"] for row in rows]
        axes.errorbar(
            values,
            [row + width * (place - (len(by_task) - 1) / 2) for row in rows],
            xerr=whiskers(values, [heads[shown[row]]["importance_ref_interval"] for row in rows]),
            fmt=MARKERS[place % len(MARKERS)],
            color=CATEGORIES[place % len(CATEGORIES)],
            ms=4,
            lw=1,
            label=shortened(task, 24),
        )
    axes.axvline(0, color=MUTED, lw=0.8)
    axes.set_yticks(range(len(shown)), shown)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.margins(x=0.06)
    left_out = f"; the {len(shown)} largest of {len(places)} heads" if len(shown) < len(places) else ""
    axes.set(xlabel=f"importance, logits (95 % interval){left_out}", ylabel="head (layer.head)")
    figure.legend(loc="outside lower center", ncols=min(len(by_task), 3))
    layer_bar(figure, [axes], layers)
    return figure


def _drift_panel(axes: Axes, run: Entry, layers: int) -> list[Point]:
    heads = [head for head in run["heads"] if _is_known(head) and head["drift"] is not None]
    axes.set_title(f"{shortened(run['task'], 30)}\n{_association(run)}")
    moved = [head["drift"] for head in heads if head["drift"] > 0]
    if not moved:
        say(axes, "no head has drifted" if heads else "no head was measured")
        return []
    still = 0.5 * min(moved)  # a logarithmic axis has no place for heads that have not moved at all
    points = [(head["importance_ref"], head["drift"] or still, head_name(head)) for head in heads]
    axes.set_yscale("log")
    decades = max(moved) / min(moved)
    plain_ticks(axes.yaxis, (1.0,) if decades > 300 else (1.0, 2.0, 5.0))
    _scatter(axes, points, heads, layers, whiskers([x for x, _, _ in points], _intervals(heads)))
    unmoved = [x for (x, _, _), head in zip(points, heads, strict=True) if not head["drift"]]
    axes.scatter(unmoved, [still] * len(unmoved), s=4 * SMALL, marker="v", facecolors="none", edgecolors=MUTED, lw=0.7)
    note = "" if len(moved) == len(heads) else "; ▽ none"
    axes.set(xlabel="importance, logits (95 % interval)", ylabel=f"drift of z, relative{note}")
    return sorted(points, key=lambda point: -abs(point[0]))


def _kinds_panel(axes: Axes, run: Entry, layers: int) -> list[Point]:
    heads = [head for head in run["heads"] if _kinds(head)]
    axes.set_title(shortened(run["task"], 30))
    kinds = [head["importance_ref_by_kind"] for head in heads]
    points = [(kind["mean"], kind["zero"], head_name(head)) for kind, head in zip(kinds, heads, strict=True)]
    _scatter(axes, points, heads, layers, None)
    around = [head.get("importance_ref_by_kind_interval") or {} for head in heads]
    mean, zero = ([found.get(kind) or (None, None) for found in around] for kind in ("mean", "zero"))
    axes.errorbar(
        [x for x, _, _ in points],
        [y for _, y, _ in points],
        xerr=whiskers([x for x, _, _ in points], mean),
        yerr=whiskers([y for _, y, _ in points], zero),
        fmt="none",
        ecolor=MUTED,
        elinewidth=0.6,
        alpha=0.5,
        zorder=2,
    )
    axes.axline((0, 0), slope=1, color=MUTED, lw=0.8, ls="--", zorder=1)
    axes.set(xlabel="importance by mean ablation, logits", ylabel="importance by zero ablation, logits")
    return sorted(points, key=lambda point: -max(abs(point[0]), abs(point[1])))


def _kinds(head: Mapping[str, Any]) -> bool:
    kinds = head.get("importance_ref_by_kind") or {}
    return all(kinds.get(kind) is not None for kind in ("mean", "zero"))


def _scatter(axes: Axes, points: list[Point], heads: Heads, layers: int, across: list[list[float]] | None) -> None:
    """Points in the colours of their layers, with whiskers if there are any."""
    colours, scale = layer_colours(layers)
    shades = [colours(scale(head["layer"])) for head in heads]
    x, y = [point[0] for point in points], [point[1] for point in points]
    if across is not None:
        low = [value - length for value, length in zip(x, across[0], strict=True)]
        high = [value + length for value, length in zip(x, across[1], strict=True)]
        axes.hlines(y, low, high, colors=shades, lw=0.8, alpha=0.6, zorder=2)
    axes.scatter(x, y, s=SMALL, c=shades, alpha=FAINT, linewidths=0, zorder=3)
    axes.axvline(0, color=MUTED, lw=0.8, zorder=1)
    axes.margins(0.1)


def _association(run: Entry) -> str:
    """Whether important heads drift more, in numbers."""
    found = (run.get("associations") or {}).get("resample")
    if not found or found["raw"]["value"] is None or found["within_layers"]["value"] is None:
        return "correlation undefined"
    p = found["p_within_layers"]
    return (
        f"ρ = {found['raw']['value']:.2f}, within layers {found['within_layers']['value']:.2f}"
        f"{'' if p is None else f' (p = {p:.2g})'}"
    )


def _largest_share(name: str, by_task: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> float:
    """A head's importance on the task that needs it most, relative to that task's most important head."""
    shares = []
    for heads in by_task.values():
        largest = max((abs(head["importance_ref"]) for head in heads.values() if _is_known(head)), default=0.0)
        if largest and _is_known(heads.get(name)):
            shares.append(abs(heads[name]["importance_ref"]) / largest)
    return max(shares, default=0.0)


def _is_known(head: Mapping[str, Any] | None) -> bool:
    return head is not None and head["importance_ref"] is not None


def _intervals(heads: Heads) -> list[list[float | None]]:
    return [head["importance_ref_interval"] for head in heads]
