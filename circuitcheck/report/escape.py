"""Words of strangers inside Markdown and workflow commands: shown as they are, never obeyed."""

from __future__ import annotations

import re

from circuitcheck.core.people import plain, visible

SPECIAL = re.compile(r"^[-+=0-9]|[\\`*_{}\[\]<>#|~$@&:]")
"""Letters that start something in GitHub's Markdown: lists, emphasis, links, tables, mathematics, mentions, emoji."""


def code(name: str) -> str:
    """A name, in the letters of code; in `code` GitHub looks for neither mentions, nor issues, nor emoji."""
    return f"<code>{_entities(plain(name) or '(no name)')}</code>"


def prose(text: str) -> str:
    """A sentence, lines broken by `<br>`, so that it fits into a list or a table's cell."""
    return "<br>".join(_entities(visible(line).strip()) for line in text.split("\n"))


def annotation_text(text: str) -> str:
    """The message of a workflow command."""
    return visible(text).replace("%", "%25").replace("\n", "%0A")


def annotation_property(text: str) -> str:
    """A property of a workflow command, such as its title."""
    return annotation_text(text).replace(":", "%3A").replace(",", "%2C")


def _entities(text: str) -> str:
    """Every special letter as a character reference, which Markdown shows and never reads."""
    return SPECIAL.sub(lambda found: f"&#{ord(found[0])};", text)
