"""Words of strangers in a terminal, inside Markdown and workflow commands: shown as they are, never obeyed."""

from __future__ import annotations

import re

SPECIAL = re.compile(r"^[-+=0-9]|[\\`*_{}\[\]<>#|~$@&:]")
"""Letters that start something in GitHub's Markdown: lists, emphasis, links, tables, mathematics, mentions, emoji."""

INVISIBLE = re.compile(
    r"[^\S\n ]|[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
"""Controls, what turns the direction of text, and halves of letters: a name could hide behind them."""


def plain(text: str) -> str:
    """A name or a sentence for a terminal, in one line."""
    return INVISIBLE.sub(" ", text).replace("\n", " ").strip()


def plain_lines(text: str) -> str:
    """A message for a terminal. Its further lines are indented, so that none can pass for one of the report's own."""
    first, *others = INVISIBLE.sub(" ", text).split("\n")
    return "\n".join([first, *(line if line.startswith("  ") else f"  {line}" for line in others)])


def code(name: str) -> str:
    """A name, in the letters of code; in `code` GitHub looks for neither mentions, nor issues, nor emoji."""
    return f"<code>{_entities(plain(name) or '(no name)')}</code>"


def prose(text: str) -> str:
    """A sentence, lines broken by `<br>`, so that it fits into a list or a table's cell."""
    return "<br>".join(_entities(INVISIBLE.sub(" ", line).strip()) for line in text.split("\n"))


def annotation_text(text: str) -> str:
    """The message of a workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def annotation_property(text: str) -> str:
    """A property of a workflow command, such as its title."""
    return annotation_text(text).replace(":", "%3A").replace(",", "%2C")


def _entities(text: str) -> str:
    """Every special letter as a character reference, which Markdown shows and never reads."""
    return SPECIAL.sub(lambda found: f"&#{ord(found[0])};", text)
