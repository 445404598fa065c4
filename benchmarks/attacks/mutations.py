"""Changes of bytes, of JSON and of safetensors, as chance has it."""

from __future__ import annotations

import json
import random
import struct
from copy import deepcopy
from typing import Any

import numpy as np

STRANGE: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, 2**70, -(2**63), 10**7, 10**400),
    *(0.0, -0.0, 0.5, 1e-300, 1e300, float("nan"), float("inf"), -1.5),
    *("", "x", "../../../x", "/dev/zero", "\0", "\n::error::x", "\x1b[31m", "\ud800", "\u202e", "x" * 5000, "é", "NaN"),
    *("os:system", "posixpath:join", "head", "block", "mean", "zero", "log_probability", "answer", "float64"),
    *([], {}, [[]], [None], [0] * 1000, {"": 0}, {"a": {"b": {"c": []}}}),
]


def _strange(chance: random.Random) -> Any:
    """One of its own, which further edits may change."""
    return deepcopy(chance.choice(STRANGE))


def mutated_bytes(chance: random.Random, content: bytes) -> bytes:
    """One to four edits of raw bytes."""
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        place, size = chance.randrange(len(data) + 1), chance.choice([1, 1, 2, 4, 8, 100, 4096])
        edit = chance.randrange(7)
        if edit == 0 and place < len(data):
            data[place] ^= 1 << chance.randrange(8)
        elif edit == 1:
            data[place : place + size] = chance.randbytes(min(size, len(data) - place))
        elif edit == 2:
            del data[place : place + size]
        elif edit == 3:
            data[place:place] = chance.randbytes(size)
        elif edit == 4:
            del data[place:]
        elif edit == 5:
            other = chance.randrange(len(data) + 1)
            data[place:place] = data[other : other + size]
        else:
            data[place : place + 1] = chance.choice(
                [b'"', b"{", b"}", b"[", b",", b":", b"\\", b"\xff", b"0", b"e", b"-"]
            )
    return bytes(data)


def mutated_json(chance: random.Random, content: Any) -> Any:
    """One to three edits of what a JSON says."""
    content = json.loads(json.dumps(content))
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        places = list(_places(content))
        parent, key = chance.choice(places)
        edit = chance.randrange(7)
        if edit <= 1:
            parent[key] = _strange(chance)
        elif edit == 2:
            del parent[key]
        elif edit == 3:
            other, name = chance.choice(places)
            parent[key] = json.loads(json.dumps(other[name]))
        elif edit == 4 and isinstance(parent, dict):
            parent[chance.choice(["", "unheard", "\ud800", f"{key}x", "name", "schema"])] = _strange(chance)
        elif edit == 4:
            parent.insert(key, _strange(chance))
        else:
            parent[key] = _near(chance, parent[key])
    return content


def twice(chance: random.Random, text: bytes) -> bytes:
    """One line of a JSON that is spelled line by line, written twice."""
    lines = text.split(b"\n")
    place = chance.randrange(max(1, len(lines) - 1))
    line = lines[place] if lines[place].endswith(b",") else lines[place] + b","
    return b"\n".join([*lines[:place], line, *lines[place:]])


def _places(value: Any) -> Any:
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def _near(chance: random.Random, value: Any) -> Any:
    """Something of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + chance.choice([-1, 1, 2, 100, value, 10**6])
    if isinstance(value, float):
        return value * chance.choice([-1, 0, 0.5, 2, 1 + 1e-5, 1 + 1e-7, 1e9])
    if isinstance(value, str):
        return chance.choice([value + "x", value[:-1], value[::-1], value.upper(), value + "\n", value * 50])
    if isinstance(value, list):
        return chance.choice([value[::-1], value[:-1], value + value[:1], value * 3])
    return dict(chance.sample(list(value.items()), len(value))) if isinstance(value, dict) else _strange(chance)


def mutated_header(chance: random.Random, file: bytes) -> bytes:
    """A safetensors file whose header says something else."""
    (size,) = struct.unpack("<Q", file[:8])
    header, body = json.loads(file[8 : 8 + size]), file[8 + size :]
    if chance.random() < 0.2:
        header["__metadata__"] = {"a": chance.choice(["x", "y" * 1000])}
    else:
        header = mutated_json(chance, header)
    spelled = json.dumps(header, separators=(",", ":")).encode(errors="surrogatepass")
    spelled += b" " * (-len(spelled) % 8 if chance.random() < 0.9 else 3)
    length = len(spelled) if chance.random() < 0.9 else chance.choice([0, 1, 2**31, 2**63, len(spelled) + 8, 10**6])
    return struct.pack("<Q", length) + spelled + body


def mutated_arrays(chance: random.Random, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One to three edits of arrays."""
    arrays = {name: array.copy() for name, array in arrays.items()}
    for _ in range(chance.choice([1, 1, 2, 3])):
        if not arrays:
            return arrays
        name = chance.choice(sorted(arrays))
        edit = chance.randrange(6)
        if edit == 0:
            arrays.pop(name)
        elif edit == 1:
            other = chance.choice(["unheard", f"{name}0", "z.0099", "rounding.0001", "", "metric.sum"])
            arrays[other] = arrays[name]
        elif edit == 2:
            arrays[name] = _reshaped(chance, arrays[name])
        elif edit == 3:
            arrays[name] = arrays[chance.choice(sorted(arrays))]
        else:
            _poke(chance, arrays[name])
    return arrays


def _reshaped(chance: random.Random, array: np.ndarray) -> np.ndarray:
    edits = [
        lambda: array[:-1],
        lambda: array[:0],
        lambda: np.concatenate([array, array]),
        lambda: array.reshape(-1),
        lambda: array[None],
        lambda: array[::-1].copy(),
        lambda: np.moveaxis(array, 0, -1).copy(),
        lambda: array.astype(chance.choice(["f2", "f8", "i1", "i8", "u1", "f4", "i4", "?"])),
        lambda: array * array.dtype.type(chance.choice([0, 2, 3])),
        lambda: np.roll(array, 1, -1),
    ]
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(chance.choice(edits)())


def _poke(chance: random.Random, array: np.ndarray) -> None:
    if not array.size:
        return
    flat = array.reshape(-1)
    place = chance.randrange(flat.size)
    if array.dtype.kind == "f":
        flat[place] = chance.choice([np.nan, np.inf, -np.inf, 0, 1, -1, 1e30, 1e-30, -flat[place], 2 * flat[place]])
    elif array.dtype.kind in "iu":
        flat[place] = chance.choice([0, 1, 2, 49, 50, 100, np.iinfo(array.dtype).max, np.iinfo(array.dtype).min])
    else:
        flat[place] = not flat[place]
