"""What a dictionary is, whatever file it came from: an encoder, a decoder, and where in a model they stand."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

Place = Literal["resid_pre", "resid_post", "attn_out", "mlp_in", "mlp_out", "z"]
"""Where in a layer: the residual stream before or after it, what its attention or its MLP adds to the stream, what its
MLP reads, and the values of all its heads."""

PLACES: tuple[Place, ...] = get_args(Place)

Normalization = Literal["none", "constant_norm_rescale", "layer_norm"]
"""What is done to every position before it is encoded: nothing; scaled to the norm sqrt(d_in); centred and scaled by
its standard deviation. What is decoded is scaled back."""


@dataclass(frozen=True)
class HookPoint:
    """A place in a model; layers count from 0."""

    layer: int
    place: Place

    def __str__(self) -> str:
        """As in TransformerLens, shortened: `resid_post of layer 3`."""
        return f"{self.place} of layer {self.layer}"


@dataclass(frozen=True)
class Gate:
    """Of a gated dictionary: a latent that is on has the size `(x W) * scale + bias`, if that is above 0.

    Attributes:
        scale: `[n]`.
        bias: `[n]`.
    """

    scale: FloatArray
    bias: FloatArray


@dataclass(frozen=True)
class Dictionary:
    """Latents f(x) of what passes a place of a model, and what they write.

    `pre = norm(x) W + b`; a latent is `pre` where that is above its threshold and, where `k` is given, among the k
    largest of its position, and else 0. What is written is `f D + c`, scaled back. All other forms in which
    dictionaries come are brought to this one when they are read.

    Attributes:
        name: the directory or file that it was read from.
        architecture: what its file calls it.
        reads: where latents are read.
        writes: where they write; of an autoencoder the same place.
        encoder: W, `[d_in, n]`.
        bias: b, `[n]`.
        threshold: `[n]`, from 0 up where the file rectifies.
        decoder: D, `[n, d_out]`.
        decoder_bias: c, `[d_out]`.
        k: how many latents of a position may be on; None for no limit.
        gate: None for all but gated ones.
        skip: what of x is written past the latents, `[d_out, d_in]`; None for most.
        normalization: of x.
        centred: whether the mean of x is taken away first, because it was trained on a model that has none there.
        notes: what a reader of a report must know of how it was read.
    """

    name: str
    architecture: str
    reads: HookPoint
    writes: HookPoint
    encoder: FloatArray
    bias: FloatArray
    threshold: FloatArray
    decoder: FloatArray
    decoder_bias: FloatArray
    k: int | None = None
    gate: Gate | None = None
    skip: FloatArray | None = None
    normalization: Normalization = "none"
    centred: bool = False
    notes: tuple[str, ...] = ()

    @property
    def latents(self) -> int:
        """How many there are."""
        return len(self.decoder)

    @property
    def is_transcoder(self) -> bool:
        """Whether it writes elsewhere than it reads."""
        return self.reads != self.writes

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that its latents and what they write depend on."""
        total = hashlib.sha256()
        for field in fields(self):
            if field.name not in ("name", "notes"):
                _update(total, field.name, getattr(self, field.name))
        return total.hexdigest()


def _update(total: hashlib._Hash, name: str, value: object) -> None:
    if isinstance(value, Gate):
        _update(total, f"{name}.scale", value.scale)
        _update(total, f"{name}.bias", value.bias)
    elif isinstance(value, np.ndarray):
        total.update(f"{name} {value.shape}".encode())
        total.update(np.ascontiguousarray(value, "<f4").data)
    else:
        total.update(f"{name} {value}".encode())
