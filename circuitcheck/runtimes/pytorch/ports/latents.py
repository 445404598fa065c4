"""The latents of a dictionary, read and written in a model: PyTorch's side of `circuitcheck.dictionaries`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from circuitcheck.dictionaries.dictionary import Dictionary

MOST_NUMBERS = 2**24
"""Latents times positions that are computed at once where all latents of a dictionary are asked for, 64 MiB of them."""

Columns = Tensor | slice
"""Which latents: their numbers, or all."""

LAYER_NORM_STEP = 1e-5
"""What SAELens adds to a standard deviation before it divides by it."""


@dataclass(frozen=True)
class Latents:
    """The latents of one dictionary, with its weights on the model's device, in float32.

    A latent's value is how much of its decoder's row is written, in the unit of the hook point: where the dictionary
    normalizes what it reads, that is the latent times the scale that is undone again.

    Attributes:
        dictionary: what was read.
        encoder: `[d_in, n]`.
        bias: `[n]`.
        threshold: `[n]`.
        decoder: `[n, d_out]`.
        turn: `[d_in, d_in]`, orthogonal: the model keeps its stream as the reference's times this; None where it is as
            the reference's.
    """

    dictionary: Dictionary
    encoder: Tensor
    bias: Tensor
    threshold: Tensor
    decoder: Tensor
    turn: Tensor | None = None

    @classmethod
    def of(cls, dictionary: Dictionary, device: torch.device) -> Latents:
        """Those of a dictionary."""
        weights = (dictionary.encoder, dictionary.bias, dictionary.threshold, dictionary.decoder)
        return cls(dictionary, *(_tensor(array, device) for array in weights))

    def read(self, x: Tensor, columns: Columns) -> Tensor:
        """Values of some latents, float32 `[..., columns, 1]`, of what passes the hook point, `[..., d_in]`."""
        if self.dictionary.k is not None:
            # Which are on depends on all others.
            return torch.cat([self.all(part)[..., columns] for part in self.parts(x)]).reshape(*x.shape[:-1], -1, 1)
        position, scale, _ = self._normalized(x)
        return (self._active(position @ self.encoder[:, columns], columns) * scale)[..., None]

    def all(self, x: Tensor) -> Tensor:
        """Values of all latents of the dictionary, float32 `[..., n]`."""
        position, scale, _ = self._normalized(x)
        return self._active(position @ self.encoder, slice(None)) * scale

    def written(self, change: Tensor, columns: Columns) -> Tensor:
        """What a change of some latents' values, `[..., columns, 1]`, writes, `[..., d_out]`."""
        return change[..., 0] @ self.rows(columns)

    def rows(self, columns: Columns) -> Tensor:
        """What each of some latents writes, in the model's own coordinates, `[columns, d_out]`."""
        rows = self.decoder[columns]
        return rows if self.turn is None else rows @ self.turn

    def explained(self, x: Tensor, output: Tensor) -> tuple[float, float]:
        """How far off the dictionary's reconstruction is, and how much there is to reconstruct.

        Args:
            x: what passes where it reads, `[tokens, d_in]`.
            output: what passes where it writes, `[tokens, d_out]`.

        Returns:
            The sum of squares of what it leaves, and that of what it is to explain, about the mean over the tokens.
        """
        _, scale, shift = self._normalized(x)
        bias = _tensor(self.dictionary.decoder_bias, x.device)
        found = torch.cat([self.all(part) @ self.decoder for part in self.parts(x)])
        found = found.reshape(*x.shape[:-1], -1) + bias * scale + shift
        if self.dictionary.skip is not None:
            found = found + self._own(x) @ _tensor(self.dictionary.skip, x.device).T
        wanted = self._own(output)
        around = wanted - wanted.mean(0)
        return float((wanted - found).double().square().sum()), float(around.double().square().sum())

    def _own(self, x: Tensor) -> Tensor:
        """In the reference's coordinates, as the dictionary was trained on."""
        x = x.float() if self.turn is None else x.float() @ self.turn.T
        return x - x.mean(-1, keepdim=True) if self.dictionary.centred else x

    def _normalized(self, x: Tensor) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """What is encoded, the scale of what is decoded, and what is added to it."""
        x, kind = self._own(x), self.dictionary.normalization
        is_undone = not self.dictionary.is_transcoder
        if kind == "constant_norm_rescale":
            scale = x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
            return x / scale, scale if is_undone else 1.0, 0.0
        if kind == "layer_norm":
            mean = x.mean(-1, keepdim=True)
            around = x - mean
            scale = around.std(-1, keepdim=True)
            return around / (scale + LAYER_NORM_STEP), scale if is_undone else 1.0, mean if is_undone else 0.0
        return x, 1.0, 0.0

    def _active(self, product: Tensor, columns: Columns) -> Tensor:
        """Latents of a product with the encoder, `[..., columns]`."""
        before = product + self.bias[columns]
        gate, k = self.dictionary.gate, self.dictionary.k
        is_on = before > self.threshold[columns]
        if k is not None:
            largest = before.topk(k, dim=-1, sorted=False).indices
            is_on = is_on & torch.zeros_like(is_on).scatter(-1, largest, value=True)
        if gate is not None:
            scale, bias = (_tensor(array, product.device)[columns] for array in (gate.scale, gate.bias))
            before = (product * scale + bias).relu()
        # Not a product with the mask: an infinite value would leave NaN behind.
        return torch.where(is_on, before, torch.zeros_like(before))

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """The positions behind one another, so many at once that all latents of them fit memory."""
        flat = x.reshape(-1, x.shape[-1])
        return torch.split(flat, max(1, MOST_NUMBERS // self.dictionary.latents))


def _tensor(array: Any, device: torch.device) -> Tensor:
    return torch.tensor(array, device=device)
