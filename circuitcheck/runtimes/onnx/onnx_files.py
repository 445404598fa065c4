"""What is asked of an ONNX file before it is used: that it says what it holds, and that a library survives it."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from circuitcheck.core.candidates import ONNX
from circuitcheck.core.errors import ModelError, SiteError
from circuitcheck.core.phrases import first_lines, listed, shortened
from circuitcheck.runtimes.child import call_in_child
from circuitcheck.runtimes.onnx.graph import Graph
from circuitcheck.runtimes.onnx.inputs import PROBE_TOKENS, inputs_of
from circuitcheck.runtimes.onnx.ort_session import Weights, make_session
from circuitcheck.runtimes.onnx.sites import find_sites, past_sizes

PLACES = ("", "onnx")
"""Where in a release's directory its file may lie."""

MOST_BYTES = 2**31
"""Of a file without the weights that it keeps in others: what protobuf can say."""

TIMES, ROOM = 6, 2**33
"""Address space of the process that tries a file: so many times its bytes, and room for the libraries."""

LARGE = 1024
"""Bytes of a weight from which on it is worth its own place."""

TYPES = {
    onnx.TensorProto.FLOAT: np.float32,
    onnx.TensorProto.FLOAT16: np.float16,
    onnx.TensorProto.INT8: np.int8,
    onnx.TensorProto.UINT8: np.uint8,
}
"""Types of weights that numpy knows, too."""

PACKED = {"INT4": 2, "UINT4": 2, "FLOAT4E2M1": 2, "INT2": 4, "UINT2": 4}
"""Numbers in a byte."""


def onnx_file(source: str | Path) -> Path:
    """The file of a release.

    Raises:
        ModelError: there is none, or there are several.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        found = onnx_files(path)
        if len(found) != 1:
            names = listed((str(file.relative_to(path)) for file in found), 8) or "none"
            raise ModelError(f"model directory {path} must hold one ONNX file, and holds {names}; name one of them.")
        return found[0]
    if not path.is_file():
        raise ModelError(f"there is no ONNX file {path}.")
    return path


def onnx_files(directory: Path) -> list[Path]:
    """All of them in a release's directory, by name."""
    return sorted(file for place in PLACES for file in (directory / place).glob(f"*{ONNX}"))


def read_model(file: Path) -> tuple[Any, Weights, list[Path]]:
    """The model in a file, its local functions written out, its weights, and the other files that it keeps some in.

    Weights in other files stay there; large ones in the file itself are taken out, so that there is one copy of them.
    The library has run the model once, in a process of its own.

    Raises:
        ModelError: this is no ONNX file, its tensors are not what they say, or the library does not survive it.
    """
    what = f"model file {file}"
    try:
        if not file.is_file() or file.stat().st_size >= MOST_BYTES:
            raise ModelError(f"{what} is no regular file of less than {MOST_BYTES:,} bytes.")
        model = onnx.load(str(file), load_external_data=False)
    except ModelError:
        raise
    except Exception as error:  # protobuf raises its own
        raise ModelError(f"{what} cannot be read as ONNX: {first_lines(error)}") from error
    if not model.graph.node:
        raise ModelError(f"{what} cannot be read as ONNX: it has no graph.")
    outside = _require_sound_tensors(model, file)
    size = sum(part.stat().st_size for part in (file, *outside))
    call_in_child(
        "circuitcheck.runtimes.onnx.onnx_files:try_once", {"file": str(file)}, what, memory=TIMES * size + ROOM
    )
    model = _inlined(model)
    taken = _taken_out(model)
    # What a message has let go of is freed with the whole of it.
    return onnx.ModelProto.FromString(model.SerializeToString()), Weights(file.parent, taken), outside


def try_once(file: str) -> None:
    """Runs a model once on a few tokens, as a child process does."""
    path, model = Path(file), onnx.load(file, load_external_data=False)
    weights = Weights(path.parent)
    session, graph = make_session(model, weights), Graph(_inlined(model), weights)
    try:
        states = past_sizes(graph, find_sites(graph))
    except SiteError:  # which is said where heads are looked for
        states = ()
    inputs = inputs_of(session, path.stem, states)
    session.run(None, inputs.feed(np.zeros((1, PROBE_TOKENS), np.int64)))


def _inlined(model: Any) -> Any:
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _taken_out(model: Any) -> dict[str, NDArray[Any]]:
    """The large weights of a model; it says from now on that they lie in a file of their own."""
    taken = {}
    for tensor in model.graph.initializer:
        kind = TYPES.get(tensor.data_type)
        if kind is not None and tensor.data_location != onnx.TensorProto.EXTERNAL and len(tensor.raw_data) >= LARGE:
            taken[tensor.name] = np.frombuffer(tensor.raw_data, kind).reshape(tuple(tensor.dims))
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="taken")
    return taken


def _require_sound_tensors(model: Any, file: Path) -> list[Path]:
    """The other files in which a model keeps weights.

    Raises:
        ModelError: names tensors that lie outside the file's directory, or are larger than what is there.
    """
    outside: dict[Path, int] = {}
    wrong = []
    for tensor in _tensors(model.graph):
        needed = _bytes_of(tensor)
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            # Text and numbers of odd types are kept as fields, which protobuf itself bounds.
            if needed is not None and tensor.HasField("raw_data") and len(tensor.raw_data) != needed:
                wrong.append(f"{shortened(tensor.name)} has {len(tensor.raw_data):,} bytes and needs {needed:,}")
            continue
        said = {entry.key: entry.value for entry in tensor.external_data}
        place = said.get("location", "")
        if not _is_beside(place):
            wrong.append(f"{shortened(tensor.name)} lies in {shortened(place)}, outside the model's directory")
            continue
        path = file.parent / place
        if path not in outside:
            if not path.is_file():
                wrong.append(f"{shortened(tensor.name)} lies in {shortened(place)}, which is no file")
                continue
            outside[path] = path.stat().st_size
        first, length = (_number(said.get(key, "0")) for key in ("offset", "length"))
        if first is None or length is None or first + max(length, needed or 0) > outside[path]:
            wrong.append(f"{shortened(tensor.name)} reaches beyond the end of {shortened(place)}")
        elif needed is not None and length not in (0, needed):
            wrong.append(f"{shortened(tensor.name)} has {length:,} bytes and needs {needed:,}")
    if wrong:
        raise ModelError(f"model file {file} is damaged: tensor {listed(wrong, 4, '; ')}. Export it again.")
    return sorted(outside)


def _tensors(graph: Any) -> Iterator[Any]:
    """Every tensor of a graph, in branches and loops, too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from [attribute.t] if attribute.HasField("t") else []
            yield from attribute.tensors
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _tensors(inner)


def _bytes_of(tensor: Any) -> int | None:
    """How many bytes a tensor takes; None of types whose size is not known, such as text."""
    if any(size < 0 for size in tensor.dims):
        return -1
    count = prod(tensor.dims)
    kind = onnx.TensorProto.DataType.Name(tensor.data_type) if tensor.data_type in KNOWN else ""
    if kind in PACKED:
        return -(-int(count) // PACKED[kind])
    try:
        size = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    except (KeyError, TypeError):
        return None
    return int(count) * int(size)


KNOWN = set(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING}


def _is_beside(place: str) -> bool:
    """Whether a path leads to the model's directory or below it, on any system."""
    parts = PurePosixPath(place).parts + PureWindowsPath(place).parts
    is_absolute = PurePosixPath(place).is_absolute() or PureWindowsPath(place).drive or place.startswith("\\")
    return bool(place) and "\0" not in place and not is_absolute and ".." not in parts


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None
