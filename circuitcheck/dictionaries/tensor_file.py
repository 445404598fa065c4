"""The arrays of a safetensors file, in float32, of a file that a stranger may have made."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.errors import DictionaryError
from circuitcheck.core.phrases import first_lines, listed, shortened
from circuitcheck.core.strict_json import strict_json

FloatArray = NDArray[np.float32]

MOST_HEADER, MOST_BYTES, MOST_ARRAYS = 2**20, 2**35, 1000
"""Bytes of a file's header, bytes of the whole file, and arrays: a dictionary has a handful."""

BFLOAT16 = "BF16"
TYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    BFLOAT16: np.dtype("<u2"),
}
"""Types that weights may have; PyTorch's 16-bit float has none in numpy, and is read as its bits."""


def read_arrays(file: Path, needed: Iterable[str], known: Iterable[str] = ()) -> dict[str, FloatArray]:
    """All arrays of a file, finite, in float32.

    Args:
        file: a safetensors file.
        needed: names that have to be there.
        known: names that may be there, too; of any other nobody knows what it would change.

    Raises:
        DictionaryError: it cannot be read, is no safetensors file, or has other arrays or numbers than it may.
    """
    try:
        with _opened(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            header, start = _header(stream, size)
            _require_names(header, needed, known, file)
            return {name: _array(stream, name, entry, start, file) for name, entry in header.items()}
    except OSError as error:
        raise DictionaryError(f"dictionary {file} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise DictionaryError(
            f"dictionary {file} is no safetensors file that can be used: {first_lines(error)}."
        ) from error


def _opened(file: Path) -> Any:
    # A pipe without a writer would block when it is opened.
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    stream = os.fdopen(descriptor, "rb")
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_BYTES:
        stream.close()
        raise ValueError(f"it is no regular file of at most {MOST_BYTES} bytes")
    return stream


def _header(stream: Any, size: int) -> tuple[dict[str, dict[str, Any]], int]:
    """What the file says of each array, and where the first byte of their numbers is."""
    length = int.from_bytes(stream.read(8), "little")
    if not 2 <= length <= min(MOST_HEADER, size - 8):
        raise ValueError("its header is missing, or has no end")
    header = strict_json(stream.read(length))
    if not isinstance(header, dict) or len(header) > MOST_ARRAYS:
        raise ValueError("its header is no table of arrays")
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if not all(_is_entry(entry) for entry in entries.values()):
        raise ValueError("its header says of an array no type, shape and place that numbers of a dictionary can have")
    spans = sorted(entry["data_offsets"] for entry in entries.values())
    ends = [0, *(end for _, end in spans)]
    if any(begin != end for (begin, _), end in zip(spans, ends, strict=False)) or ends[-1] != size - 8 - length:
        raise ValueError("its arrays overlap, or leave bytes that nobody knows")
    return entries, 8 + length


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        return False
    shape, place = entry["shape"], entry["data_offsets"]
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in TYPES or not isinstance(shape, list):
        return False
    if not isinstance(place, list) or len(place) != 2 or len(shape) > 2:
        return False
    if not all(type(number) is int and 0 <= number <= MOST_BYTES for number in (*shape, *place)):
        return False
    return bool(place[1] - place[0] == math.prod(shape) * TYPES[entry["dtype"]].itemsize)


def _require_names(header: Mapping[str, Any], needed: Iterable[str], known: Iterable[str], file: Path) -> None:
    needed = list(needed)
    missing = [name for name in needed if name not in header]
    if missing:
        raise DictionaryError(
            f"dictionary {file} has no {', '.join(missing)}; it holds {listed(map(shortened, sorted(header)), 8)}. "
            "Give the file as it was saved, or correct its architecture in the configuration."
        )
    strange = sorted(header.keys() - {*needed, *known})
    if strange:
        raise DictionaryError(
            f"dictionary {file} holds {listed(map(shortened, strange), 4)}, which no dictionary of its architecture "
            "has, so that nobody knows what that changes. Correct the architecture in the configuration."
        )


def _array(stream: Any, name: str, entry: Mapping[str, Any], start: int, file: Path) -> FloatArray:
    kind = TYPES[entry["dtype"]]
    stream.seek(start + entry["data_offsets"][0])
    count = math.prod(entry["shape"])
    content = np.fromfile(stream, kind, count)
    if len(content) < count:
        raise ValueError("it ends before its arrays do")
    if entry["dtype"] == BFLOAT16:
        content = (content.astype("<u4") << 16).view("<f4")
    with np.errstate(over="ignore"):
        array: FloatArray = content.astype(np.float32).reshape(entry["shape"])
    if not np.isfinite(array).all():
        raise DictionaryError(
            f"dictionary {file}: {name} holds values that are NaN or infinite. Give a dictionary whose training did "
            "not diverge."
        )
    return array


def require_shapes(arrays: Mapping[str, FloatArray], shapes: Mapping[str, tuple[int, ...]], file: Path) -> None:
    """Refuses arrays of other shapes than the configuration says.

    Raises:
        DictionaryError: names each with both shapes.
    """
    wrong = [
        f"{name} is {list(arrays[name].shape)} instead of {list(shape)}"
        for name, shape in shapes.items()
        if name in arrays and arrays[name].shape != shape
    ]
    if wrong:
        raise DictionaryError(
            f"dictionary {file} does not fit its configuration: {'; '.join(wrong)}. Give both as they were saved."
        )
