"""Sizes and weights that are read from a GGUF file itself: what units write is told by them, and not by a pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.errors import ModelError, SiteError
from circuitcheck.core.phrases import first_lines
from circuitcheck.core.reading import Reading
from circuitcheck.core.units import Group, Layout

FloatArray = NDArray[np.float32]

NUMBER, ACTIVATIONS = 4, 8
"""Bytes of the largest type that is kept, and about how many values as wide as the widest live at once in a pass."""


@dataclass(frozen=True)
class GGUFWeights:
    """A file that lies open; its numbers are read where they are needed.

    Attributes:
        name: how messages call it.
        file: where it lies.
        layers: how many it has.
        heads: query heads of each.
        width: numbers of one head.
    """

    name: str
    file: Path
    layers: int
    heads: int
    width: int
    _metadata: dict[str, Any]
    _tensors: dict[str, Any]

    @property
    def architecture(self) -> str:
        """What llama.cpp calls its kind of model."""
        return str(self._metadata["general.architecture"])

    @property
    def vocabulary(self) -> int:
        """Rows of the token embedding."""
        return int(self._tensors["token_embd.weight"].shape[1])

    @property
    def positions(self) -> int | None:
        """Rows of the table of positions; None where nothing limits them."""
        table = self._tensors.get("position_embd.weight")
        return None if table is None else int(table.shape[1])

    def row_bytes(self, positions: int, cells: int) -> int:
        """About what one more sequence takes: keys and values of all its cells, scores and activations of a pass.

        Args:
            positions: tokens of it in one pass.
            cells: positions that its cache has.
        """
        shared = self._metadata.get(f"{self.architecture}.attention.head_count_kv")
        keys = (shared if isinstance(shared, int) and 0 < shared <= self.heads else self.heads) * self.width
        widest = max(int(tensor.shape[1]) for name, tensor in self._tensors.items() if _is_layer_matrix(name, tensor))
        activations = self.heads * cells + ACTIVATIONS * widest
        return NUMBER * (2 * self.layers * keys * cells + activations * positions)

    def layouts(self) -> dict[str, Layout]:
        """Heads; each layer's whole attention and whole MLP; and neurons, where all MLPs end in one product."""
        layers = range(self.layers)
        heads = [Group(str(layer), layer, self.heads, self.width) for layer in layers]
        stream = int(self._tensors["token_embd.weight"].shape[0])
        names = [(f"{part} {layer}", layer) for layer in layers for part in ("attention", "mlp")]
        blocks = [Group(name, layer, 1, stream, numbered=False) for name, layer in names]
        found = {"head": Layout("head", tuple(heads)), "block": Layout("block", tuple(blocks))}
        if all(self.has(_down(layer)) for layer in layers):
            widths = [int(self._tensors[_down(layer)].shape[0]) for layer in layers]
            neurons = [Group(f"neuron {layer}", layer, width, 1) for layer, width in enumerate(widths)]
            found["neuron"] = Layout("neuron", tuple(neurons))
        return found

    def has(self, name: str) -> bool:
        """Whether there is a tensor of that name."""
        return name in self._tensors

    def matrix(self, name: str) -> FloatArray:
        """A weight, unpacked to float32, `[out, in]`.

        Raises:
            SiteError: there is no such weight.
        """
        from gguf.quants import dequantize

        tensor = self._tensors.get(name)
        if tensor is None:
            raise SiteError(f"{self.name} has no tensor {name}.")
        found = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
        return found.reshape([int(size) for size in reversed(tensor.shape)])

    def reads_plainly(self, layer: int) -> bool:
        """Whether a layer's attention output projection is stored in float32."""
        return bool(self._tensors[_projection(layer)].tensor_type.name == "F32")

    def reading(self, layout: Layout, tokens: Sequence[int]) -> Reading:
        """What units write, read in the logits of some tokens past everything in between; see `Reading`."""
        rows = self._rows(tokens)
        return Reading(
            "unembedding",
            tuple(int(token) for token in tokens),
            tuple(self._map(layout, group, rows) for group in layout.groups),
        )

    def _map(self, layout: Layout, group: Group, rows: FloatArray) -> FloatArray:
        if layout.kind == "block":
            return rows[None]
        name = _projection(group.layer) if layout.kind == "head" else _down(group.layer)
        written = self.matrix(name).reshape(-1, group.total, group.width)
        written = written[:, list(group.numbers)] if group.of else written
        return np.ascontiguousarray(np.einsum("to,ocw->ctw", rows, written, optimize=True))

    def written(self, layer: int) -> FloatArray:
        """What each number of each head writes, `[count, width, d_model]`."""
        return self.matrix(_projection(layer)).T.reshape(self.heads, self.width, -1)

    def _rows(self, tokens: Sequence[int]) -> FloatArray:
        """Rows of the unembedding, times the final norm's weight; centred where that norm takes the mean away."""
        name = "output.weight" if "output.weight" in self._tensors else "token_embd.weight"
        rows = self._some_rows(name, tokens)
        if "output_norm.weight" in self._tensors:
            rows = rows * self.matrix("output_norm.weight")
        # Only a LayerNorm has an epsilon of this name.
        if f"{self.architecture}.attention.layer_norm_epsilon" in self._metadata:
            rows = rows - rows.mean(1, keepdims=True)
        return np.asarray(rows, np.float32)

    def _some_rows(self, name: str, tokens: Sequence[int]) -> FloatArray:
        """Some rows of a matrix; blocks of quantized types never cross rows."""
        from gguf.quants import dequantize

        tensor = self._tensors[name]
        stored = tensor.data.reshape(int(tensor.shape[1]), -1)[list(tokens)]
        return np.asarray(dequantize(stored, tensor.tensor_type), np.float32)


def _down(layer: int) -> str:
    return f"blk.{layer}.ffn_down.weight"


def _is_layer_matrix(name: str, tensor: Any) -> bool:
    return name.startswith("blk.") and len(tensor.shape) > 1


def _projection(layer: int) -> str:
    return f"blk.{layer}.attn_output.weight"


def open_weights(file: Path, name: str) -> GGUFWeights:
    """Opens a file whose header was found sound.

    Raises:
        ModelError: it does not say how its model is made.
        SiteError: its heads cannot be told from what it says.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        metadata = {key: field.contents() for key, field in reader.fields.items() if len(field.types) == 1}
        tensors = {tensor.name: tensor for tensor in reader.tensors}
    except Exception as error:  # the package raises whatever its parser meets
        raise ModelError(f"{name} cannot be read as GGUF: {first_lines(error)}") from error
    if metadata.get("split.count", 1) not in (0, 1):
        raise ModelError(f"{name} is one of several files of one model; merge them with llama-gguf-split --merge.")
    architecture = metadata.get("general.architecture")
    layers, heads = (metadata.get(f"{architecture}.{key}") for key in ("block_count", "attention.head_count"))
    if not isinstance(layers, int) or not isinstance(heads, int) or layers < 1 or heads < 1:
        raise SiteError(
            f"{name} does not say one number of layers and one of heads for all of them (architecture "
            f"{architecture}: block_count {layers}, head_count {heads}), so its heads cannot be told."
        )
    if "token_embd.weight" not in tensors:
        raise ModelError(f"{name} has no token_embd.weight.")
    missing = [_projection(layer) for layer in range(layers) if _projection(layer) not in tensors]
    if missing:
        raise SiteError(f"{name} has no attention output projection {missing[0]}, so its heads cannot be measured.")
    inputs = {int(tensors[_projection(layer)].shape[0]) for layer in range(layers)}
    if len(inputs) != 1 or next(iter(inputs)) % heads:
        raise SiteError(f"{name}: inputs of its attention output projections, {sorted(inputs)}, make no {heads} heads.")
    return GGUFWeights(name, file, layers, heads, inputs.pop() // heads, metadata, tensors)
