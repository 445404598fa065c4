"""Draws docs/pictures/modules.svg, damage by layer and module: `python docs/make_modules_picture.py`.

The MLP of layer 2 of the embedded model is rounded to 2 bits, and everything is gated on `induction`.
"""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from circuitcheck import load_model
from circuitcheck.baseline.baseline import Baseline
from circuitcheck.gate.judge import judge
from circuitcheck.gate.measure import measure
from circuitcheck.report.charts.histograms import draw_placing
from circuitcheck.report.charts.style import drawing
from circuitcheck.report.document import run_entry
from circuitcheck.report.fields import Entry
from circuitcheck.runtimes.pytorch.quantizers.rtn import dequantize, round_weight

TARGET = Path(__file__).parent / "pictures" / "modules.svg"
BASELINE = Path(__file__).parent.parent / "baselines" / "embedded" / "induction.json"
LAYER, BITS = 2, 2


def damaged_run() -> Entry:
    """The report's entry of the damaged model."""
    model = load_model("embedded")
    layer = model.module.gpt_neox.layers[LAYER]
    with torch.no_grad():
        for part in (layer.mlp.dense_h_to_4h, layer.mlp.dense_4h_to_h):
            part.weight.copy_(dequantize(*round_weight(part.weight, BITS)))
    return run_entry(judge(measure(replace(model, precision="8-bit"), Baseline.load(BASELINE))))


def picture(run: Entry) -> bytes:
    """The SVG."""
    content = BytesIO()
    with drawing({"svg.hashsalt": "modules"}):
        figure = Figure(figsize=(6.2, 2.9), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        draw_placing(axes, run)
        figure.legend(loc="outside lower center", ncols=2)
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()


if __name__ == "__main__":
    TARGET.write_bytes(picture(damaged_run()))
