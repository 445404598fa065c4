"""How the units of a model are read in logits: through its own final norm and unembedding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from circuitcheck.core.reading import Reading, Source
from circuitcheck.runtimes.pytorch.forward import float_rows
from circuitcheck.runtimes.pytorch.offload import stored
from circuitcheck.runtimes.pytorch.ports.experts import down_matrices
from circuitcheck.runtimes.pytorch.ports.ports import Port
from circuitcheck.runtimes.pytorch.ports.proofs import float_matrix
from circuitcheck.runtimes.pytorch.ports.structure import input_width
from circuitcheck.runtimes.pytorch.torch_model import TorchModel

ROWS = 256
"""Rows of an identity that a quantized map is asked at once."""


def reading_of(model: TorchModel, ports: Sequence[Port], tokens: Sequence[int], amplitudes: Sequence[float]) -> Reading:
    """The maps from the values of units to the logits of some tokens, past everything in between.

    Args:
        model: the model.
        ports: of the units.
        tokens: token ids, below the size of the vocabulary.
        amplitudes: for each group how large its values are, for maps that can only be told by what they do.

    Returns:
        For each group `W_U[tokens] diag(norm) W_O` of each unit; the rows of W_U are centred where the final norm takes
        the mean away.
    """
    with torch.no_grad():
        source, rows = _readout(model, torch.tensor(list(tokens), device=model.device), ports[0])
        shared = rows[None].cpu().numpy()
        maps = [
            shared
            if port.is_written_whole
            else torch.einsum("to,cwo->ctw", rows, _written(model, port, amplitude)).cpu().numpy()
            for port, amplitude in zip(ports, amplitudes, strict=True)
        ]
    return Reading(source, tuple(int(token) for token in tokens), tuple(maps))


def _readout(model: TorchModel, tokens: Tensor, port: Port) -> tuple[Source, Tensor]:
    """What of the residual stream each token's logit is made of, float32 `[tokens, d_model]`.

    Some models unembed, or embed, in fewer numbers than the stream has; what lies between is not looked into.
    """
    structure, module = model.structure, model.module
    width = port.group.width if port.is_written_whole else _written(model, port, 1.0).shape[-1]
    output = None if structure.output_layer is None else module.get_submodule(structure.output_layer)
    if output is not None and input_width(output) in (width, None):
        scale, is_centred = _final_norm(model, width)
        rows = _rows(output, tokens, width) * scale
        return "unembedding", rows - rows.mean(1, keepdim=True) if is_centred else rows
    table = stored(module.get_submodule(structure.embedding), "weight") if structure.embedding else None
    if isinstance(table, Tensor) and table.is_floating_point() and table.shape[1] == width:
        return "embedding", table[tokens].float()
    sketch = np.random.default_rng(0).standard_normal((int(tokens.max()) + 1, width)).astype(np.float32)
    return "sketch", torch.from_numpy(sketch).to(tokens.device)[tokens]


def _final_norm(model: TorchModel, width: int) -> tuple[Tensor | float, bool]:
    """What the final norm multiplies each number by, `[d_model]`, and whether it takes the mean away first.

    Asked of the norm itself, since some (Gemma's) multiply by one more than their weight, and some (OLMo's) have none.
    """
    path = model.structure.final_norm
    if path is None:
        return 1.0, False
    norm = model.module.get_submodule(path)
    weight = next(norm.parameters(), None)
    ones = torch.ones(width, dtype=None if weight is None else weight.dtype, device=model.device)
    signs = ones.clone()
    signs[1::2] = -1
    zero, level, steps = (norm.forward(value[None, None])[0, 0].float() for value in (0 * ones, ones, signs))
    scale = (steps - zero) / signs.float()
    return scale, bool((level - zero).abs().max() < 0.01 * scale.abs().max())


def _rows(output: nn.Module, tokens: Tensor, width: int) -> Tensor:
    """Rows of the unembedding, float32 `[tokens, d_model]`."""
    rows = float_rows(output)
    if rows is not None and not output._forward_pre_hooks:
        return rows[0][tokens].float()
    return _asked(output, width, 1.0)[:, tokens].T


def _written(model: TorchModel, port: Port, amplitude: float) -> Tensor:
    """What each number of each unit writes, float32 `[count, width, d_model]`."""
    if port.expert is not None:
        matrix = down_matrices(model.module.get_submodule(port.module))[port.expert.number]
        return matrix[port.numbers].float()[:, None]
    if port.latents is None:
        written = _matrix(model, port.module, port.width, amplitude).reshape(port.group.total, port.group.width, -1)
        return written[port.numbers]
    rows = port.latents.rows(port.numbers)
    if port.latents.dictionary.writes.place == "z":
        rows = rows @ _matrix(model, port.module, port.width, amplitude)
    return rows[:, None]


def _matrix(model: TorchModel, path: str, width: int, amplitude: float) -> Tensor:
    """The `[in, out]` matrix of a projection, float32."""
    projection = model.module.get_submodule(path)
    matrix = float_matrix(projection)
    return _asked(projection, width, amplitude) if matrix is None else matrix.float()


def _asked(module: nn.Module, width: int, amplitude: float) -> Tensor:
    """The `[in, out]` matrix of a linear map of whatever kind, float32, from what it makes of each single number."""
    parts = (*module.parameters(), *module.buffers())
    kinds = [part.dtype for part in parts if part.is_floating_point() and part.element_size() > 1]
    kind, device = kinds[0] if kinds else torch.float32, parts[0].device if parts else None
    rows = []
    for start in range(0, width, ROWS):
        basis = torch.zeros(1, min(ROWS, width - start), width, dtype=kind, device=device)
        basis[0].diagonal(start).fill_(amplitude)
        # The difference of both signs knows no bias; all zeros are no input for maps that round by the largest number.
        rows.append((module(basis)[0].float() - module(-basis)[0].float()) / (2 * amplitude))
    return torch.cat(rows)
