"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Advance = Callable[[int], None]
"""Called with the number of (head set, prompt) rows that were just finished."""


def silent(_: int) -> None:
    """Tells nobody."""
