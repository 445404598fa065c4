"""matplotlib's figures as SVG that may stand inside a page, in the page's own colours and font."""

from __future__ import annotations

import io
import re
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

INK, MUTED, LINE, SURFACE = "#0a0001", "#0a0002", "#0a0003", "#0a0004"
SERIES = ("#0a0011", "#0a0012", "#0a0013", "#0a0014", "#0a0015", "#0a0016")
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    SURFACE: "var(--card)",
    **{color: f"var(--series-{number})" for number, color in enumerate(SERIES, 1)},
}
"""Colours that stand for the page's own, which differ between light and dark."""

STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 11.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "grid.color": LINE,
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 10.0,
}

_SVG = "http://www.w3.org/2000/svg"
_HREF = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"#([\w-]+)")
_DECIMALS = re.compile(r"(\d+\.\d{2})\d+")
_FONT = re.compile(r"font-family: [^;\"]*; ?|font: ([\d.]+px) [^;\"]*")


def inline_svg(figure: Figure, key: str, label: str) -> str:
    """One figure as an `svg` element that scales with the page.

    Args:
        figure: drawn under `STYLE`; artists with a `gid` keep it as their class.
        key: unique on the page, made of letters, digits and hyphens; ids begin with it.
        label: the figure in one sentence, for who does not see it.
    """
    text = io.StringIO()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": key}):
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
    for name, space in (("", _SVG), ("xlink", "http://www.w3.org/1999/xlink")):
        ElementTree.register_namespace(name, space)
    return _in_colors_of_the_page(ElementTree.tostring(root, "unicode"))


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
            if name == _HREF or value.startswith("url(#"):
                element.set(name, value.replace("#", f"#{key}-"))


def _in_colors_of_the_page(text: str) -> str:
    text = _DECIMALS.sub(r"\1", text).replace("\n", " ")
    text = _FONT.sub(lambda match: f"font-size: {match[1]}" if match[1] else "", text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, variable)
    return text
