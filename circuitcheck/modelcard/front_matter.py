"""The YAML head of a model card, in which the lines of single keys are replaced and every other byte stays.

ruamel.yaml says in which lines a key stands, and writes it anew with its comments, quotes and order. Only those lines
go through it, because its round trip of a whole head is not exact: of 41 ways to write one that were tried it changes
15, among them spaces in `[a,   b]`, tables indented by 4, folded text, `~`, `True`, `+1` and escapes in quotes.
"""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import Any

from huggingface_hub.repocard import REGEX_YAML_BLOCK
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.util import load_yaml_guess_indent

from circuitcheck.core.errors import ConfigurationError


def split_card(text: str) -> tuple[str, str, str]:
    """What stands above the YAML of a card, the YAML's lines, and all that is below; a card without gets a head."""
    found = REGEX_YAML_BLOCK.search(text)
    if found is None:
        line = f"---{newline_of(text)}"
        return line, "", line + text
    end = found.start(3) + (2 if found[3].startswith("\r\n") else 1)
    return text[: found.start(2)], text[found.start(2) : end], text[end:]


def newline_of(text: str) -> str:
    """How a card ends its lines."""
    return "\r\n" if "\r\n" in text else "\n"


def read_head(head: str) -> dict[str, Any]:
    """What the YAML says, with its comments, quotes and places.

    Raises:
        ConfigurationError: it is not YAML, or not a table of keys.
    """
    try:
        values = _round_trip().load(head)
    except YAMLError as error:
        reason = repr(str(error))
        if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
            reason = f"{error.problem!r} in its line {error.problem_mark.line + 1}"
        raise ConfigurationError(f"its YAML head is broken: {reason}. Mend it; nothing was written.") from error
    if not isinstance(values, dict | None):
        kind = "a list" if isinstance(values, list) else "a single value"
        raise ConfigurationError(f"its YAML head must be keys and values, but is {kind}.")
    return values or {}


def replaced(head: str, key: str, change: Callable[[Any], Any], newline: str) -> str:
    """The YAML with another value of a top-level key, in the key's place or as the last one.

    Args:
        head: the YAML's lines.
        key: its name.
        change: from the key's value, or None, to what it shall be; what it hands on keeps comments and quotes.
        newline: how the card ends its lines.

    Raises:
        ConfigurationError: the key cannot be replaced without changing others.
    """
    values = read_head(head)
    before, lines, after = _around(head, values, key)
    yaml, text = _round_trip(), StringIO()
    try:
        own, width, offset = load_yaml_guess_indent(lines, yaml=yaml)
        value = change((own or {}).get(key))
        if key in values and values[key] == value:
            return head
        yaml.indent(sequence=width or 2, offset=offset or 0)
        yaml.dump({key: value}, text)
        found = before + text.getvalue().replace("\n", newline) + after
        if _round_trip().load(found) == {**values, key: value}:
            return found
    except YAMLError:
        pass
    raise ConfigurationError(
        f"{key} in its YAML head cannot be replaced alone: it shares an anchor with other keys, or the head is written "
        "in braces. Remove it, or write one key a line."
    )


def _around(head: str, values: Any, key: str) -> tuple[str, str, str]:
    """The YAML above a key, the key's own lines, and what is below."""
    lines = list(StringIO(head, newline=""))  # ends lines where ruamel does
    places = {name: values.lc.key(name)[0] for name in values}
    start = places.get(key, len(lines))
    end = min((place for place in places.values() if place > start), default=len(lines))
    while end > start + 1 and not lines[end - 1].split("#")[0].strip():
        end -= 1  # blank lines and comments above the next key are its own
    return "".join(lines[:start]), "".join(lines[start:end]), "".join(lines[end:])


def _round_trip() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10**6
    return yaml
