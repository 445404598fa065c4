"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Advance = Callable[[int], None]
"""Called with the number of rows, each one prompt under one set of units, that were just finished."""


def silent(_: int) -> None:
    """Progress that is not shown."""
