"""How every figure looks: colours that colour-blind readers can tell apart, and no global state."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1b1f24", "#59636e", "#d8dee4"
CATEGORIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's colours, without their yellow, which is too pale on white."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
LABEL_SIZE = 7.5
COLUMNS = 3
PANEL = (4.0, 3.5)
"""Width and height of a panel, inches."""

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
    "savefig.facecolor": "white",
    "figure.facecolor": "white",
    "svg.hashsalt": "circuitcheck",
    "svg.fonttype": "path",  # the same words at the same place in every viewer
}
"""rcParams that differ from matplotlib's defaults."""


def panels(count: int, title: str, *, size: tuple[float, float] = PANEL) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, at most three in a row.

    Args:
        count: from 1 up.
        title: above all panels.
        size: width and height of one panel, inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(size[0] * columns + 0.8, size[1] * rows + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(shortened(title, 34 * columns + 20), fontsize=11, fontweight="bold")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for unused in axes[count:]:
        unused.set_visible(False)
    return figure, axes[:count]


def layer_colours(layers: int) -> tuple[Colormap, Normalize]:
    """A sequential map from layer to colour, dark to light, whose lightest end is still seen on white.

    Args:
        layers: how many there are.
    """
    import matplotlib
    from matplotlib.colors import ListedColormap, Normalize

    shades = matplotlib.colormaps["viridis"]
    colours = ListedColormap([shades(0.9 * place / max(layers - 1, 1)) for place in range(layers)], name="layers")
    return colours, Normalize(-0.5, layers - 0.5)


def layer_bar(figure: Figure, axes: Sequence[Axes], layers: int) -> None:
    """The key to the layers' colours, beside the panels."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import MaxNLocator

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
    axes.text(
        0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=MUTED, gid="message", fontsize=9
    )


def plain_ticks(axis: Any, steps: tuple[float, ...] = (1.0,)) -> None:
    """Numbers as people write them on a logarithmic axis.

    Args:
        axis: of a panel.
        steps: which multiples of powers of ten have a tick.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

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


def head_name(head: Mapping[str, Any]) -> str:
    """`layer.head`."""
    return f"{head['layer']}.{head['head']}"


def depth(heads: Iterable[Mapping[str, Any]]) -> int:
    """How many layers there are."""
    return 1 + max((head["layer"] for head in heads), default=0)
