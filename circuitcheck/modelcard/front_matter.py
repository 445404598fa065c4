"""The YAML head of a model card, of which single keys are replaced and every other byte is kept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from circuitcheck.core.errors import ConfigurationError

LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


@dataclass(frozen=True)
class FrontMatter:
    """A model card in two parts.

    Attributes:
        opening: the line above the YAML.
        body: the YAML, with the end of its last line.
        closing: the line below it.
        rest: the card's text.
        values: what the YAML says.
        newline: how the card ends its lines.
        where: what messages call the card.
    """

    opening: str
    body: str
    closing: str
    rest: str
    values: dict[str, Any]
    newline: str
    where: str

    @classmethod
    def of(cls, text: str, where: str) -> FrontMatter:
        """Takes a card apart; one without YAML gets an empty head.

        Raises:
            ConfigurationError: what stands there is not YAML, or not a table of keys.
        """
        newline = "\r\n" if "\r\n" in text else "\n"
        found = REGEX_YAML_BLOCK.search(text)
        if found is None:
            return cls(f"---{newline}", "", f"---{newline}", text, {}, newline, where)
        end = re.match(r"\r\n|\r|\n", found[3])
        body = found[2] + (end[0] if end else "")
        values = _parsed(body, where)
        return cls(found[1], body, found[3][end.end() if end else 0 :], text[found.end() :], values, newline, where)

    @property
    def text(self) -> str:
        """The head as it stands in the card."""
        return self.opening + self.body + self.closing

    def with_value(self, key: str, value: Any) -> FrontMatter:
        """The same head with this value of a top-level key, in the key's place or as the last one.

        Raises:
            ConfigurationError: the key cannot be replaced without changing others.
        """
        if key in self.values and self.values[key] == value:
            return self
        line = yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=10**6)
        start, end = _span(self.body, key)
        body = self.body[:start] + line.replace("\n", self.newline) + self.body[end:]
        values = self.values | {key: value}
        if not _says(body, values):
            raise ConfigurationError(
                f"{key} in the YAML head of {self.where} cannot be replaced alone: it stands there twice, shares an "
                "anchor with other keys, or the head is written in braces. Remove it, or write one key a line."
            )
        return FrontMatter(self.opening, body, self.closing, self.rest, values, self.newline, self.where)


def _span(body: str, key: str) -> tuple[int, int]:
    """Where the lines of a top-level key start and end; at the very end if there is none."""
    node = yaml.compose(body, Loader=yaml.SafeLoader)
    pairs = node.value if isinstance(node, yaml.MappingNode) and not node.flow_style else []
    for name, value in pairs:
        if name.value == key:
            # A block's end mark lies after the blank lines and comments that follow it, which are not its own.
            lines = LINE.findall(body[name.start_mark.index : value.end_mark.index])
            while len(lines) > 1 and not lines[-1].split("#")[0].strip():
                lines.pop()
            return name.start_mark.index, _line_end(body, name.start_mark.index + sum(map(len, lines)))
    return len(body), len(body)


def _line_end(body: str, place: int) -> int:
    """The start of the next line, unless this is one."""
    if place and body[place - 1] in "\r\n":
        return place
    found = re.compile(r"\r\n|\r|\n").search(body, place)
    return found.end() if found else len(body)


def _says(body: str, values: dict[str, Any]) -> bool:
    try:
        return bool(yaml.safe_load(body) == values)
    except yaml.YAMLError:
        return False


def _parsed(body: str, where: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(body)
    except yaml.YAMLError as error:
        raise ConfigurationError(
            f"the YAML head of {where} is broken: {error}. Mend it; nothing was written."
        ) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigurationError(f"the YAML head of {where} must be keys and values, but is {type(values).__name__}.")
    return values
