"""Phrases that messages of many modules are made of."""

from __future__ import annotations

from collections.abc import Iterable


def listed(names: Iterable[str], most: int, separator: str = ", ") -> str:
    """The first names, and how many more there are: `a, b and 3 more`."""
    known = list(names)
    return separator.join(known[:most]) + (f" and {len(known) - most} more" if len(known) > most else "")


def shortened(text: str, most: int = 80) -> str:
    """A text that a stranger wrote, quoted, and cut where it is long."""
    return repr(text[:most]) + ("..." if len(text) > most else "")


def first_lines(error: BaseException) -> str:
    """An error's message in one line of bearable length, or its name where it has none."""
    return " ".join(str(error).split())[:400] or type(error).__name__


def extra_needed(what: str, extra: str) -> str:
    """What is said of something that needs packages which are not installed, and the way to install them."""
    return f'{what} needs {extra}: pip install "circuitcheck[{extra}]".'
