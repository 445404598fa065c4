"""Text for people: words of strangers in it are shown as they are, and never obeyed by whoever displays them.

Terminals obey control characters, and CI services obey lines of a log: GitHub those that start with `::` after any
spaces, or have `##[` anywhere, Azure `##vso[`, TeamCity `##teamcity[`.
"""

from __future__ import annotations

import re

INVISIBLE = re.compile(
    r"[^\S\n ]|[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    r"\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
"""Controls, what turns the direction of text, and halves of letters: a name could hide behind them."""

COMMAND = re.compile(r":(?=:)|#(?=#(?:vso|teamcity)?\[)", re.IGNORECASE)
"""What starts a command in a log; also in the middle of a line, which may yet be broken there."""


def visible(text: str) -> str:
    """Text of our own with words of strangers in it; line feeds stay."""
    return COMMAND.sub(lambda found: f"{found[0]} ", INVISIBLE.sub(" ", text))


def plain(text: str) -> str:
    """A name or a sentence, in one line."""
    return visible(text).replace("\n", " ").strip()


def plain_lines(text: str) -> str:
    """A message. Its further lines are indented, so that none can pass for one of the report's own."""
    first, *others = visible(text).split("\n")
    return "\n".join([first, *(line if line.startswith("  ") else f"  {line}" for line in others)])
