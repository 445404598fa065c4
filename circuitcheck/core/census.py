"""What a model was really loaded as: the types of its modules and weights, counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LEVELS = (8, 4, 3, 2)
"""Bits that limits on drift are given for."""

STATIC, STATIC_BITS = "8-bit-static", 8.0
"""The precision of 8-bit weights whose products read 8-bit activations by one scale that was fixed beforehand."""

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

    @property
    def is_float32(self) -> bool:
        """Whether it runs in float32 throughout: nothing is quantized, and no weight has another type."""
        return not self.quantized and {kind.weight for kind in self.after} == {"float32"}


@dataclass(frozen=True)
class FoundWeight:
    """One weight.

    Attributes:
        module: class of the module that holds it.
        weight: class and type of the weight.
        bits: that one number takes; None where that cannot be told.
        parameters: how many numbers it stands for.
        is_projection: whether it is a linear map inside a layer.
        is_quantized: whether it is.
    """

    module: str
    weight: str
    bits: float | None
    parameters: int
    is_projection: bool
    is_quantized: bool


def summarize_census(before: Sequence[FoundWeight], after: Sequence[FoundWeight], claim: str | None) -> Census:
    """Counts what was found."""
    projections = [weight for weight in before if weight.is_projection]
    quantized = [weight for weight in projections if weight.is_quantized]
    return Census(
        before=_kinds(before),
        after=_kinds(after),
        projections=len(projections),
        quantized=len(quantized),
        bits=_mean_bits(quantized or projections),
        claim=claim,
    )


def _mean_bits(weights: Sequence[FoundWeight]) -> float | None:
    known = [(weight.bits, weight.parameters) for weight in weights if weight.bits is not None]
    total = sum(parameters for _, parameters in known)
    return round(sum(bits * parameters for bits, parameters in known) / total, 3) if total else None


def _kinds(weights: Sequence[FoundWeight]) -> tuple[WeightKind, ...]:
    groups: dict[tuple[str, str, float | None], list[int]] = {}
    for weight in weights:
        groups.setdefault((weight.module, weight.weight, weight.bits), []).append(weight.parameters)
    # Most weights first; names decide between equals, so that the same model gives the same census.
    order = sorted(groups.items(), key=lambda item: (-sum(item[1]), item[0][0], item[0][1], item[0][2] or 0))
    return tuple(WeightKind(module, kind, bits, len(sizes), sum(sizes)) for (module, kind, bits), sizes in order)
