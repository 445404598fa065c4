"""Draws docs/pictures/features.svg, features that survive plain rounding: `python docs/make_features_picture.py`.

From the golden baseline of the embedded model's features on `ioi`, which knows what every rounding leaves.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.report.charts.style import CATEGORIES, drawing

TARGET = Path(__file__).parent / "pictures" / "features.svg"
BASELINE = Path(__file__).parent.parent / "baselines" / "embedded" / "ioi.feature.json"


def survivors(baseline: Baseline) -> dict[str, list[float]]:
    """Precision to the share of features that survives each way to round to it."""
    assert baseline.features is not None
    found: dict[str, list[float]] = {}
    for one, share in zip(baseline.roundings, baseline.features.surviving, strict=True):
        found.setdefault(one.precision, []).append(float(share))
    return found


def picture(found: dict[str, list[float]]) -> bytes:
    """The SVG."""
    content = BytesIO()
    with drawing({"svg.hashsalt": "features"}):
        figure = Figure(figsize=(6.2, 2.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for place, shares in enumerate(found.values()):
            axes.scatter([place] * len(shares), shares, s=22, color=CATEGORIES[0], alpha=0.7, linewidths=0)
        axes.set_xticks(range(len(found)), list(found))
        axes.set(ylabel="features that survive", ylim=(0, 1.03))
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()


if __name__ == "__main__":
    TARGET.write_bytes(picture(survivors(Baseline.load(BASELINE))))
