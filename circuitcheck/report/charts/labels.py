"""Names of points in a scatter plot, as many as there is room for, none over another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from circuitcheck.report.charts.style import INK, LABEL_SIZE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

OFFSETS = tuple(
    (distance * across, distance * up, beside, above)
    for distance in (5.0, 9.0, 15.0)
    for across, up, beside, above in (
        (1.0, 0.4, "left", "bottom"),
        (1.0, -0.4, "left", "top"),
        (-1.0, 0.4, "right", "bottom"),
        (-1.0, -0.4, "right", "top"),
        (0.0, 1.0, "center", "bottom"),
        (0.0, -1.0, "center", "top"),
    )
)
"""Where a label is tried, in this order: points across and up from its point, and its alignment."""

ROOM = 1.5
"""Pixels that stay free around a label."""

MARK = 4.0
"""Half the width of a point's mark, pixels at the figure's own resolution."""

Point = tuple[float, float, str]
"""Place in data, and name."""


def label_points(figure: Figure, labels: Iterable[tuple[Axes, Sequence[Point], int]]) -> None:
    """Names points beside them where neither a point nor another label is in the way; else the name is left out.

    The layout is fixed from here on, because a label's place depends on it.

    Args:
        figure: with everything else drawn.
        labels: panels, each with all of its points, those that matter most first, and how many names it gets at most.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes, points, most in labels:
        _label_panel(figure, axes, points, most)


def _label_panel(figure: Figure, axes: Axes, points: Sequence[Point], most: int) -> None:
    if not points:
        return
    marks = axes.transData.transform(np.array([(across, up) for across, up, _ in points], float))
    taken: list[Bbox] = [text.get_window_extent() for text in axes.texts]
    named = 0
    for across, up, name in points:
        if named == most:
            return
        box = _label(figure, axes, (across, up), name, marks, taken)
        if box is not None:
            taken.append(box)
            named += 1


def _label(
    figure: Figure, axes: Axes, at: tuple[float, float], name: str, marks: np.ndarray, taken: Sequence[Bbox]
) -> Bbox | None:
    """The box of the label in pixels, or None if there is no room for it."""
    from matplotlib.patheffects import withStroke

    label = axes.annotate(name, at, (0, 0), textcoords="offset points", fontsize=LABEL_SIZE, color=INK, gid="label")
    label.set_in_layout(False)
    label.set_path_effects([withStroke(linewidth=2, foreground="white")])
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    for x, y, beside, above in OFFSETS:
        label.set_position((x, y))
        label.set(ha=beside, va=above)
        box = label.get_window_extent(renderer).padded(ROOM)
        if _is_inside(axes.bbox, box) and not _hits(box, marks) and not box.count_overlaps(taken):
            return box
    label.remove()
    return None


def _is_inside(panel: Bbox, box: Bbox) -> bool:
    return bool(panel.x0 <= box.x0 and box.x1 <= panel.x1 and panel.y0 <= box.y0 and box.y1 <= panel.y1)


def _hits(box: Bbox, marks: np.ndarray) -> bool:
    """Whether a point's mark reaches into the box."""
    across, up = marks[:, 0], marks[:, 1]
    inside = (across > box.x0 - MARK) & (across < box.x1 + MARK) & (up > box.y0 - MARK) & (up < box.y1 + MARK)
    return bool(inside.any())
