"""The page's curves and scatter plots, drawn by matplotlib. Every point is in the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from circuitcheck.report.html.colors import layer_colors
from circuitcheck.report.html.svg import INK, MUTED, SERIES, STYLE, SURFACE, inline_svg

WIDTH, PLOT = 5.4, 2.7
"""Inches of a chart's width and of its axes' height; 72 of the page's pixels each, before the page scales it."""

LEFT, AXIS, LEGEND_ROW, MARGIN = 0.75, 0.62, 0.22, 0.2
"""Inches beside the axes, of the axis below them, of one row of the legend, and around it all."""

DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
"""Line styles, so that curves differ by more than their colour."""

MARKERS = ("o", "s", "^", "D", "v", "P")

FEW_LAYERS = 8
"""Up to so many layers the legend names each one; above, it names some of them."""

MANY_HEADS = 48
"""From so many heads on, the number of repaired heads is shown in powers of two."""


def repair_chart(run: Mapping[str, Any], key: str) -> str | None:
    """Recovery against the number of repaired heads, by order, over the band of random orders; None where undefined."""
    repair = run.get("repair") or {}
    curves = {name: _defined(points) for name, points in (repair.get("curves") or {}).items()}
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return None

    def draw(axes: Axes) -> None:
        for level in (0, 1):
            axes.axhline(level, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        random = _defined(repair.get("random") or [])
        if random:
            counts = [point["k"] for point in random]
            lows, highs = zip(*(_band(point) for point in random), strict=True)
            axes.fill_between(counts, lows, highs, color=MUTED, alpha=0.25, linewidth=0, label="random, 95 %")
            axes.plot(
                counts,
                [point["recovery"]["value"] for point in random],
                color=MUTED,
                linewidth=1.5,
                label="random, mean",
            )
        for place, (name, points) in enumerate(curves.items()):
            axes.plot(
                [point["k"] for point in points],
                [point["recovery"]["value"] for point in points],
                color=SERIES[place % len(SERIES)],
                linestyle=DASHES[place % len(DASHES)],
                marker=MARKERS[place % len(MARKERS)],
                markersize=4,
                linewidth=1.8,
                label=name,
            )
        _whole_numbers(axes, max(point["k"] for points in curves.values() for point in points))
        axes.set_xlabel("repaired heads")
        axes.set_ylabel("recovery, share of the damage")

    label = f"Recovery against the number of repaired heads, in the orders {', '.join(curves)}."
    return _chart(key, label, draw)


def drift_chart(run: Mapping[str, Any], key: str) -> str | None:
    """Importance in the reference against drift, one point a head, coloured by layer; None where no head has both."""
    heads = list(run.get("units") or [])
    points = [head for head in heads if head["importance_ref"]["value"] is not None and head["drift"] is not None]
    if not points:
        return None
    layers = max(head["layer"] for head in heads) + 1
    colors = layer_colors(layers)
    few = len(points) <= MANY_HEADS

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=MUTED, linewidth=1)
        axes.scatter(
            [head["importance_ref"]["value"] for head in points],
            [head["drift"] for head in points],
            c=[colors[head["layer"]] for head in points],
            s=34 if few else 14,
            linewidths=0.6,
            edgecolors=MUTED,
            clip_on=False,
            zorder=3,
            gid="own-heads",
        )
        for layer in _some(layers):
            axes.scatter([], [], c=colors[layer], s=34, linewidths=0.6, edgecolors=MUTED, label=f"layer {layer}")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.04)
        axes.set_xlabel("importance in the reference, logits")
        axes.set_ylabel("drift, relative")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))

    label = f"Drift of each of {len(points)} heads against its importance in the reference, coloured by layer."
    return _chart(key, label, draw, columns=4)


def drift_chart_places(run: Mapping[str, Any]) -> list[int]:
    """For each point of the drift chart, in order, the place of its head in the report."""
    return [
        place
        for place, head in enumerate(run.get("units") or [])
        if head["importance_ref"]["value"] is not None and head["drift"] is not None
    ]


def bound_chart(run: Mapping[str, Any], key: str) -> str | None:
    """Measured degradation of each prompt against its bound and its estimate; None where no prompt has both."""
    prompts = (run.get("bound") or {}).get("per_prompt") or {}
    measured = prompts.get("degradation") or []
    series = [
        (name, color, marker, _both_positive(prompts.get(source) or [], measured))
        for name, source, color, marker in (
            ("bound", "bound", SERIES[0], "o"),
            ("estimate", "estimate", SERIES[1], "^"),
        )
    ]
    numbers = [number for *_, pairs in series for pair in pairs for number in pair]
    if not numbers:
        return None
    ends = (min(numbers) / 1.5, max(numbers) * 1.5)

    def draw(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.plot(ends, ends, color=INK, linewidth=1.2, label="equal")
        for name, color, marker, pairs in series:
            if pairs:
                predicted, found = zip(*pairs, strict=True)
                axes.scatter(
                    predicted, found, c=color, marker=marker, s=26, linewidths=0.5, edgecolors=SURFACE, label=name
                )
        axes.set_xlim(ends)
        axes.set_ylim(ends)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(numticks=5))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("predicted from the first order, logits")
        axes.set_ylabel("measured degradation, logits")

    label = f"Measured degradation of {len(measured)} prompts against the first-order bound and estimate."
    return _chart(key, label, draw)


def _chart(key: str, label: str, draw: Callable[[Axes], None], columns: int = 3) -> str:
    """One chart, as high as its axes and its legend below them need."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(facecolor="none")
        axes = figure.add_subplot(facecolor="none")
        draw(axes)
        names = axes.get_legend_handles_labels()[1]
        rows = math.ceil(len(names) / columns)
        below = AXIS + LEGEND_ROW * rows
        height = below + PLOT + MARGIN
        figure.set_size_inches(WIDTH, height)
        axes.set_position((LEFT / WIDTH, below / height, 1 - (LEFT + MARGIN) / WIDTH, PLOT / height))
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(-(LEFT - 0.1) / (WIDTH - LEFT - MARGIN), -(AXIS - 0.05) / PLOT),
            ncols=columns,
            handlelength=2.6 if columns == 3 else 1,
            columnspacing=1.2,
            borderaxespad=0,
            borderpad=0,
        )
        axes.tick_params(length=3)
        return inline_svg(figure, key, label)


def _whole_numbers(axes: Axes, largest: int) -> None:
    if largest > MANY_HEADS:
        axes.set_xscale("log", base=2)
        axes.set_xlim(1 / 1.1, largest * 1.1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _some(layers: int) -> Sequence[int]:
    """Layers that the legend names: all of few, else about six from the first to the last."""
    if layers <= FEW_LAYERS:
        return range(layers)
    return sorted({round(place * (layers - 1) / 5) for place in range(6)})


def _defined(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [point for point in points if point["recovery"]["value"] is not None]


def _band(point: Mapping[str, Any]) -> tuple[float, float]:
    value, (low, high) = point["recovery"]["value"], point["recovery"]["interval"]
    return (value if low is None else low, value if high is None else high)


def _both_positive(predicted: Sequence[float | None], measured: Sequence[float | None]) -> list[tuple[float, float]]:
    """Pairs that a logarithmic axis can show."""
    pairs = ((abs(p), abs(m)) for p, m in zip(predicted, measured, strict=True) if p and m)
    return [(p, m) for p, m in pairs if p > 0 and m > 0]
