"""Colours of the head maps, for light and dark."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_hex

SIGNED_STEPS = 41
"""Steps from strongly negative to strongly positive; the middle one is zero. `assets/report.js` has it too."""

UNSIGNED_STEPS = 33
"""Steps from zero up."""

Colors = dict[str, tuple[str, ...]]

LIGHT: Colors = {
    "s": ("#8c0f22", "#dd6f57", "#f1f3f6", "#6aa5d6", "#08478c"),
    "u": ("#f1f3f6", "#fad390", "#e98a3c", "#a83c0c", "#571804"),
}
"""Kind of map, `s`igned or `u`nsigned, to the colours between which its steps lie: zero is as plain as the page.
Red and blue, and pale and dark, are told apart under every kind of colour blindness."""

DARK: Colors = {
    "s": ("#ffa68f", "#bb4c3a", "#262c35", "#3a7bb8", "#a5cfff"),
    "u": ("#262c35", "#70401f", "#c4681f", "#f3aa44", "#ffedb3"),
}
"""The same where the page is dark."""


def map_colors(maps: Colors) -> dict[str, list[str]]:
    """Class of a cell's colour scale to its steps, as `#rrggbb`."""
    steps = {"s": SIGNED_STEPS, "u": UNSIGNED_STEPS}
    return {
        kind: [
            to_hex(color) for color in LinearSegmentedColormap.from_list(kind, between)(np.linspace(0, 1, steps[kind]))
        ]
        for kind, between in maps.items()
    }
