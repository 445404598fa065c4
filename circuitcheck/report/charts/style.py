"""How every picture looks: colours that colour-blind readers can tell apart, and no global state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from warnings import catch_warnings, filterwarnings

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

INK, MUTED, GRID, GROUND = "#1b1f24", "#59636e", "#d8dee4", "#ffffff"
CATEGORIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours, without their yellow, which is too pale on white."""
MARKERS = ("o", "s", "D", "^", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
VERDICTS = {"PASS": ("#0072b2", "o"), "INCONCLUSIVE": ("#e69f00", "D"), "FAIL": ("#d55e00", "X")}
BAND: dict[str, Any] = {"color": MUTED, "alpha": 0.2, "lw": 0, "zorder": 1}
LABEL_SIZE = 7.5

SETTINGS: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.limits": (-4, 5),
    "axes.formatter.use_mathtext": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,  # a name may hold dollar signs
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "savefig.facecolor": GROUND,
    "figure.facecolor": GROUND,
    "svg.hashsalt": "circuitcheck",
    "svg.fonttype": "path",  # the same words at the same place in every viewer
}
"""rcParams that differ from matplotlib's defaults."""


@contextmanager
def drawing(changes: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Matplotlib in this style; a letter that its font lacks is drawn as a box, without a warning.

    Args:
        changes: further rcParams.
    """
    with matplotlib.rc_context(SETTINGS | dict(changes or {})), catch_warnings():
        filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        yield


def layer_colours(layers: int) -> tuple[ListedColormap, Normalize]:
    """A sequential map from layer to colour, dark to light, whose ends are seen on white and on black.

    Args:
        layers: how many there are.
    """
    shades = matplotlib.colormaps["viridis"]
    colours = ListedColormap([shades(0.12 + 0.76 * place / max(layers - 1, 1)) for place in range(layers)], "layers")
    return colours, Normalize(-0.5, layers - 0.5)


def layer_bar(figure: Figure, axes: Sequence[Axes], layers: int) -> None:
    """The key to the layers' colours, beside the panels."""
    colours, scale = layer_colours(layers)
    bar = figure.colorbar(
        ScalarMappable(scale, colours), ax=list(axes), label="layer", shrink=0.8, aspect=30, pad=0.02, fraction=0.04
    )
    bar.ax.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    bar.ax.minorticks_off()
    bar.ax.grid(visible=False)


def say(axes: Axes, words: str) -> None:
    """Words in the middle of a panel that has nothing to draw."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=MUTED, gid="message")


def plain_ticks(axis: Axis, steps: tuple[float, ...] = (1.0,)) -> None:
    """Numbers as people write them on a logarithmic axis.

    Args:
        axis: of a panel.
        steps: which multiples of powers of ten have a tick.
    """
    axis.set_major_locator(LogLocator(subs=steps, numticks=8))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def whiskers(values: Sequence[float], intervals: Iterable[Sequence[float | None]]) -> list[list[float]]:
    """Lengths of error bars, `[2, points]`; 0 where an end is not known."""
    ends = [
        (value if low is None else low, value if high is None else high)
        for value, (low, high) in zip(values, intervals, strict=True)
    ]
    return [
        [max(value - low, 0.0) for value, (low, _) in zip(values, ends, strict=True)],
        [max(high - value, 0.0) for value, (_, high) in zip(values, ends, strict=True)],
    ]


def shortened(name: str, width: int) -> str:
    """A name in one line, printable, without its middle if it is too long; both ends tell names apart."""
    line = "".join(letter if letter.isprintable() else " " for letter in name)
    if len(line) <= width:
        return line
    kept = width - 1
    return f"{line[: kept - kept // 2]}…{line[len(line) - kept // 2 :]}"
