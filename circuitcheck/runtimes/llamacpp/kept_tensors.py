"""A reference's linear maps in the place of a file's, for a keep list."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.errors import CandidateError
from circuitcheck.core.runtime import Replaceable
from circuitcheck.runtimes.llamacpp.gguf_weights import GGUFWeights

FloatArray = NDArray[np.float32]

MATRIX, FUSED = 2, 3
"""Dimensions of a linear map; queries, keys and values in one, head by head in some of PyTorch's models."""

HALVES = 2
"""A rotated pair is two numbers: side by side in files of some architectures, and half a head apart in PyTorch."""


@dataclass(frozen=True)
class KeptMap:
    """One linear map of the reference, as a file would keep it in float32.

    Attributes:
        tensor: what the file calls it.
        matrix: the reference's weight in the file's order, `[out, in]`.
    """

    tensor: str
    matrix: FloatArray

    @property
    def layer(self) -> int:
        """That it is in."""
        return int(self.tensor.split(".")[1])

    @property
    def block(self) -> str:
        """Label of the attention or MLP that it is part of."""
        return f"{'attention' if self.tensor.split('.')[2].startswith('attn') else 'mlp'} {self.layer}"


def kept_maps(reference: Any, weights: GGUFWeights) -> dict[str, KeptMap]:
    """Module path of each linear map of the reference that a file has otherwise, to what it would be there.

    Args:
        reference: a model of PyTorch.
        weights: of the file.

    Raises:
        CandidateError: there are none.
    """
    import gguf

    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[weights.architecture], weights.layers)
    found: dict[str, KeptMap] = {}
    for key, value in reference.module.state_dict().items():
        path = key.removesuffix(".weight")
        tensor = f"{names.get_name(path)}.weight"
        if path != key and value.dim() == MATRIX and tensor.startswith("blk.") and weights.has(tensor):
            stored = weights.matrix(tensor)
            matrix = _as_stored(np.asarray(value.float().cpu().numpy(), np.float32), stored, weights)
            if matrix is not None and not np.array_equal(matrix, stored):
                found[path] = KeptMap(tensor, matrix)
    if not found:
        raise CandidateError(
            f"{weights.name}: no linear map inside its layers differs from the reference's, so there is none that "
            "could be kept in high precision. Its fault lies elsewhere."
        )
    return found


def replaceable_maps(reference: Any, weights: GGUFWeights) -> Replaceable:
    """The same for a keep list, by the reference's module paths.

    Raises:
        CandidateError: there are none.
    """
    maps = kept_maps(reference, weights)
    labels = [f"{part} {layer}" for layer in range(weights.layers) for part in ("attention", "mlp")]
    return Replaceable(
        layers=tuple(
            tuple(path for path, kept in maps.items() if kept.layer == layer) for layer in range(weights.layers)
        ),
        output_layer=None,
        blocks={label: tuple(path for path, kept in maps.items() if kept.block == label) for label in labels},
        tensors={path: (kept.tensor,) for path, kept in maps.items()},
    )


def _as_stored(matrix: FloatArray, stored: FloatArray, weights: GGUFWeights) -> FloatArray | None:
    """A matrix in the order in which the file keeps it, told by what the file holds; None if in no known one."""
    ways = [matrix, np.ascontiguousarray(matrix.T)]
    if len(matrix) == FUSED * weights.heads * weights.width:
        by_head = matrix.reshape(weights.heads, FUSED, weights.width, matrix.shape[1])
        ways.append(np.ascontiguousarray(by_head.swapaxes(0, 1)).reshape(matrix.shape))
    if len(matrix) % weights.width == 0 and weights.width % HALVES == 0:
        halves = matrix.reshape(-1, HALVES, weights.width // HALVES, matrix.shape[1])
        ways.append(np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(matrix.shape))
    fitting = [way for way in ways if way.shape == stored.shape]
    return min(fitting, key=lambda way: float(np.square(way - stored).sum()), default=None)


@contextmanager
def file_with(file: Path, maps: Mapping[str, FloatArray]) -> Iterator[Path]:
    """A copy of a file with some of its tensors in float32, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="circuitcheck-") as folder:
        target = Path(folder) / file.name
        _write(file, target, maps)
        yield target


def _write(file: Path, target: Path, maps: Mapping[str, FloatArray]) -> None:
    import gguf

    reader = gguf.GGUFReader(file)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for key, entry in reader.fields.items():
        # The writer says these itself, and some entries are the reader's own.
        if key != "general.architecture" and not key.startswith("GGUF."):
            inner = entry.types[-1] if entry.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, entry.contents(), entry.types[0], sub_type=inner)
    for tensor in reader.tensors:
        if tensor.name in maps:
            writer.add_tensor(tensor.name, maps[tensor.name])
        else:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
