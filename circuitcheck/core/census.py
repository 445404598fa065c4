"""What a candidate was really loaded as: the types of its modules and weights."""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = (8, 4, 3, 2)
"""Bits that limits on drift are given for."""

FLOAT8, FLOAT8_BITS = "float8", 8.0
"""How PyTorch's types of that kind begin, and the precision that releases with such weights are held to."""


@dataclass(frozen=True)
class WeightKind:
    """Modules of one class whose weights are stored alike.

    Attributes:
        module: class of the modules.
        weight: class and type of their weights.
        bits: bits that a weight takes, or took before it was unpacked, scales not counted; None where that cannot be
            told.
        modules: how many there are.
        parameters: weights in all of them.
    """

    module: str
    weight: str
    bits: float | None
    modules: int
    parameters: int


@dataclass(frozen=True)
class Census:
    """All weights of a model, before and after its first forward pass (some formats are unpacked by it).

    Attributes:
        before: as loaded; of a GGUF file, as stored.
        after: after the first pass.
        projections: linear maps inside the layers.
        quantized: those of them whose weights are quantized.
        bits: of a quantized projection's weight, on average over weights; of any projection's where none is quantized.
        claim: the method by which the release says it was quantized; None where it claims nothing.
    """

    before: tuple[WeightKind, ...]
    after: tuple[WeightKind, ...]
    projections: int
    quantized: int
    bits: float | None
    claim: str | None

    @property
    def level(self) -> str | None:
        """`8-bit`, `4-bit`, `3-bit` or `2-bit`: the most of these that its weights reach; None if none is quantized.

        `float8` where they are floats of 8 bits, whose steps are an order coarser than those of integers.
        """
        if not self.quantized:
            return None
        if self.bits == FLOAT8_BITS and any(FLOAT8 in kind.weight for kind in self.before):
            return FLOAT8
        reached = [level for level in LEVELS if self.bits is None or self.bits >= level - 1e-6]
        return f"{max(reached, default=min(LEVELS))}-bit"
