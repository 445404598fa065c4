"""Draws docs/pictures/basis.svg, one head in two bases: `python docs/make_basis_picture.py`."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from circuitcheck.report.charts.style import CATEGORIES, INK, MUTED, drawing

TARGET = Path(__file__).parent / "pictures" / "basis.svg"
Array = NDArray[np.float64]

PROMPTS = 9
TURN = np.deg2rad(100)
ROTATION = np.array([[np.cos(TURN), -np.sin(TURN)], [np.sin(TURN), np.cos(TURN)]])
OUTPUT = np.array([[1.0, 0.4], [-0.3, 0.8]])
"""The head's output map W, from its two numbers to two logits."""

ROWS = (
    ("turned in v and back in o:\nanother basis", OUTPUT @ ROTATION.T),
    ("turned in v alone:\ndamage", OUTPUT),
)
"""What was done to the head, and the output map that the candidate has."""


def values() -> Array:
    """The reference's z, `[prompts, 2]`: a trail that has a beginning and an end, so that a turn can be seen."""
    steps = np.linspace(0, 1, PROMPTS)
    return np.stack([0.5 + steps, 0.2 + 0.9 * steps**2], axis=1)


def drifts() -> list[tuple[float, float]]:
    """Drift of z and of what is written, for each row."""
    z, moved = values(), values() @ ROTATION.T
    return [(_drift(z, moved), _drift(z @ OUTPUT.T, moved @ output.T)) for _, output in ROWS]


def draw() -> bytes:
    """The picture, the same bytes every time."""
    with drawing({"font.size": 9.5, "axes.titlesize": 10}):
        figure = Figure(figsize=(8.2, 5.6), layout="constrained")
        FigureCanvasAgg(figure)
        z, moved = values(), values() @ ROTATION.T
        panels = figure.subplots(2, 2)
        for (left, right), (words, output), (of_z, written) in zip(panels, ROWS, drifts(), strict=True):
            _panel(left, z, moved, f"z: drift {of_z:.2f}", ("z, first number", "z, second number"))
            _panel(
                right, z @ OUTPUT.T, moved @ output.T, f"written: drift {abs(written):.2f}", ("logit", "another logit")
            )
            left.annotate(
                words, (-0.3, 0.5), xycoords="axes fraction", rotation=90, ha="center", va="center", weight="bold"
            )
        marks, names = panels[0, 0].get_legend_handles_labels()
        figure.legend(marks, names, loc="outside lower center", ncols=3)
        content = BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()


def _panel(axes: Axes, reference: Array, candidate: Array, title: str, names: tuple[str, str]) -> None:
    axes.plot(*reference.T, marker="o", ms=9, mfc="none", color=CATEGORIES[0], lw=1.2, label="reference")
    axes.plot(*candidate.T, marker="x", ms=6, color=CATEGORIES[1], lw=1.2, ls="--", label="candidate")
    axes.scatter([0], [0], marker="+", s=60, color=MUTED, lw=1, label="zero")
    axes.set(xlim=(-2, 2.2), ylim=(-0.8, 2.2), aspect="equal", xlabel=names[0], ylabel=names[1])
    axes.set_title(title, color=INK)


def _drift(reference: Array, candidate: Array) -> float:
    return float(np.linalg.norm(reference - candidate) / np.linalg.norm(reference))


if __name__ == "__main__":
    TARGET.write_bytes(draw())
