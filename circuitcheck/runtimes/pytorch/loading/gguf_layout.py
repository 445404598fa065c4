"""Walks through a GGUF file's header within its own bounds, before any library reads as far as the header says."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of each type of value that is neither a text nor a list."""

TEXT, LIST = 8, 9
MOST_ENTRIES, MOST_ITEMS, MOST_NAME, MOST_DIMENSIONS = 100_000, 2**20, 2**16, 4
"""Entries and tensors of a file, items of one list, bytes of a name, and dimensions of a tensor."""


@dataclass
class _Cursor:
    content: mmap.mmap
    place: int = 0

    def skip(self, size: int) -> bytes:
        """The next bytes, of which only short ones are looked at."""
        start, self.place = self.place, self.place + size
        if self.place > len(self.content):
            raise ValueError("it ends too early")
        return self.content[start : min(self.place, start + MOST_NAME)]

    def number(self, form: str) -> int:
        return int(struct.unpack(form, self.skip(struct.calcsize(form)))[0])

    def text(self) -> bytes:
        return self.skip(self.number("<Q"))


def require_whole(file: Path, sizes: dict[int, tuple[int, int]]) -> None:
    """Nothing, if every count and length in the header stays within the file.

    Args:
        file: the file.
        sizes: type of a tensor to numbers of one block, and bytes of it.

    Raises:
        ValueError: says what does not fit.
        OSError: it cannot be read.
    """
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        cursor = _Cursor(content)
        if cursor.skip(4) != b"GGUF" or cursor.number("<I") not in (2, 3):
            raise ValueError("it does not begin like a GGUF file of version 2 or 3")
        tensors, entries = cursor.number("<Q"), cursor.number("<Q")
        if max(tensors, entries) > MOST_ENTRIES:
            raise ValueError(f"it claims {tensors} tensors and {entries} entries")
        _require_once(_entry(cursor) for _ in range(entries))
        ends: list[int] = []
        _require_once(_tensor(cursor, sizes, ends) for _ in range(tensors))
        if max(ends, default=0) > len(content) - cursor.place:
            raise ValueError("its tensors end behind it")


def _require_once(names: Iterator[bytes]) -> None:
    seen: set[bytes] = set()
    for name in names:
        if name in seen or len(name) >= MOST_NAME:
            raise ValueError(f"{name[:80]!r} stands in it twice, or is too long")
        seen.add(name)


def _entry(cursor: _Cursor) -> bytes:
    key = cursor.text()
    _value(cursor, cursor.number("<I"))
    return key


def _value(cursor: _Cursor, kind: int) -> None:
    if kind == LIST:
        kind, items = cursor.number("<I"), cursor.number("<Q")
        if items > MOST_ITEMS or kind == LIST:
            raise ValueError(f"it has a list of {items} items, or a list of lists")
        if kind in SCALARS:
            cursor.skip(items * SCALARS[kind])
        else:
            for _ in range(items):
                _value(cursor, kind)
    elif kind == TEXT:
        cursor.text()
    elif kind in SCALARS:
        cursor.skip(SCALARS[kind])
    else:
        raise ValueError(f"it has a value of the unknown type {kind}")


def _tensor(cursor: _Cursor, sizes: dict[int, tuple[int, int]], ends: list[int]) -> bytes:
    name, dimensions = cursor.text(), cursor.number("<I")
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise ValueError(f"tensor {name[:80]!r} has {dimensions} dimensions")
    numbers = prod(cursor.number("<Q") for _ in range(dimensions))
    kind, offset = cursor.number("<I"), cursor.number("<Q")
    if kind not in sizes:
        raise ValueError(f"tensor {name[:80]!r} has the unknown type {kind}")
    block, size = sizes[kind]
    ends.append(offset + numbers // block * size)
    return name
