"""The page's charts: the same drawings as SVG that stands inside the page, in its colours and its font."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from xml.etree import ElementTree

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from circuitcheck.report.charts import drawings, histograms
from circuitcheck.report.charts.style import CATEGORIES, GRID, GROUND, INK, MUTED, drawing, layer_bar

SIZE = (5.4, 3.8)
"""Inches; 72 of the page's pixels each, before the page scales it."""

SETTINGS = {
    "font.size": 11,
    "axes.labelsize": 11,
    "legend.fontsize": 10,
    "axes.unicode_minus": False,
    "svg.fonttype": "none",
}
"""rcParams in which the page differs from the files."""

VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    GROUND: "var(--card)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(CATEGORIES, 1)},
}
"""The page's own colours, which differ between light and dark, in place of the files'."""

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_REFERENCE = re.compile(r"#([\w-]+)")
_DECIMALS = re.compile(r"(\d+\.\d{2})\d+")
_FONT = re.compile(r"font-family: [^;\"]*; ?|font: ([\d.]+px) [^;\"]*")


def repair_chart(run: Mapping[str, Any], key: str) -> str | None:
    """Recovery against the number of repaired units, by order, over the band of random ones; None where undefined.

    Args:
        run: its entry in the report.
        key: unique on the page, made of letters, digits and hyphens; ids begin with it.
    """
    orders = [name for name in drawings.repair_orders(run) if name != "random"]
    label = f"Recovery against the number of repaired {run['unit']}s, in the orders {', '.join(orders)}."
    return _chart(key, label, lambda axes: drawings.draw_repair(axes, run)) if orders else None


def drift_chart(run: Mapping[str, Any], key: str) -> str | None:
    """Importance in the reference against drift, one point a unit; None where no unit has both. See `repair_chart`."""
    count, layers = len(drawings.drift_places(run)), drawings.depth(drawings.units_of(run))
    label = f"Drift of each of {count} {run['unit']}s against its importance in the reference, coloured by layer."

    def draw(axes: Axes) -> bool:
        if not drawings.draw_drift(axes, run, layers):
            return False
        axes.collections[0].set_gid("own-heads")  # the page's script looks for them
        return True

    return _chart(key, label, draw, layers) if count else None


def bound_chart(run: Mapping[str, Any], key: str) -> str | None:
    """Degradation of each prompt against its bound and estimate; None where no prompt has both. See `repair_chart`."""
    count = max(map(len, drawings.bound_pairs(run).values()), default=0)
    label = f"Measured degradation of {count} prompts against the first-order bound and estimate."
    return _chart(key, label, lambda axes: drawings.draw_bound(axes, run)) if count else None


def placing_chart(run: Mapping[str, Any], key: str) -> str | None:
    """What repairing each module alone leaves of the damage; None where nobody looked. See `repair_chart`."""
    count = len(histograms.modules_of(run))
    label = f"What repairing each of {count} modules alone leaves of the damage, by layer, for attention and MLP."
    return _chart(key, label, lambda axes: histograms.draw_placing(axes, run)) if count else None


def population_charts(run: Mapping[str, Any], key: str) -> list[str]:
    """Drift and correlation of all of many units, as histograms; none where all were measured. See `repair_chart`."""
    found = run.get("population")
    if not found:
        return []
    said = f"of all {found['units']:,} {run['unit']}s is distributed."
    return [
        _chart(f"{key}-{name}", f"How the {name} {said}", partial(histograms.draw_histogram, run=run, name=name))
        for name in histograms.HISTOGRAMS
    ]


def feature_charts(run: Mapping[str, Any], key: str) -> list[str]:
    """Correlation and difference of all of a task's features, as histograms; none of other kinds of unit."""
    found = run.get("features")
    if not found:
        return []
    said = f"of all {found['active']:,} features between reference and candidate is distributed."
    return [
        _chart(f"{key}-{name}", f"How the {name} {said}", partial(histograms.draw_features, run=run, name=name))
        for name in histograms.OF_FEATURES
    ]


def _chart(key: str, label: str, draw: Callable[[Axes], Any], layers: int = 0) -> str:
    """One panel as an `svg` element that scales with the page; artists with a `gid` of our own keep it as their class.

    Args:
        key: unique on the page.
        label: the chart in one sentence, for who does not see it.
        draw: fills the panel, and says whether it coloured something by layer.
        layers: of the model, if something is.
    """
    text = io.StringIO()
    with drawing(SETTINGS | {"svg.hashsalt": key}):
        figure = Figure(figsize=SIZE, layout="constrained", facecolor="none")
        axes = figure.add_subplot(facecolor="none")
        if draw(axes) and layers:
            layer_bar(figure, [axes], layers)
        if axes.get_legend_handles_labels()[1]:
            figure.legend(loc="outside lower left", ncols=3, handlelength=2.6, columnspacing=1.2)
        figure.savefig(text, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(text.getvalue())
    _make_ids_unique(root, key)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for name in ("width", "height", "version"):
        del root.attrib[name]
    root.attrib |= {"role": "img", "class": "chart", "aria-label": label}
    for name, space in (("", _SVG), ("xlink", _XLINK)):
        ElementTree.register_namespace(name, space)
    return _in_colours_of_the_page(ElementTree.tostring(root, "unicode"))


def _make_ids_unique(root: ElementTree.Element, key: str) -> None:
    """Ids that something refers to get the key in front; all others go, and those of our own become classes."""
    attributes = [value for element in root.iter() for name, value in element.attrib.items() if name != "style"]
    used = {name for value in attributes for name in _REFERENCE.findall(value)}
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own in used:
            element.set("id", f"{key}-{own}")
        elif own is not None and own.startswith("own-"):
            element.set("class", own.removeprefix("own-"))
        for name, value in element.attrib.items():
            element.set(name, _DECIMALS.sub(r"\1", value))
            if name == f"{{{_XLINK}}}href" or value.startswith("url(#"):
                element.set(name, value.replace("#", f"#{key}-"))


def _in_colours_of_the_page(text: str) -> str:
    text = text.replace("\n", " ")
    text = _FONT.sub(lambda match: f"font-size: {match[1]}" if match[1] else "", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    return text
