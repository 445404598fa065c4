"""JSON as strangers may write it: keys that stand twice, half a character or brackets without end are errors."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def strict_json(content: bytes | str, *, constants: bool = False) -> Any:
    """What a JSON text says.

    Args:
        content: the text, or its UTF-8.
        constants: whether `NaN` and `Infinity`, which are no JSON, may stand for numbers.

    Raises:
        ValueError: it is no JSON, or a key stands twice in one object.
    """
    text = content.decode() if isinstance(content, bytes) else content
    try:
        found = json.loads(text, object_pairs_hook=_once, parse_constant=None if constants else _refused)
        if "\\u" in text:
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("brackets are nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("it has half a surrogate pair") from error
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice")
    return found


def _refused(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")
