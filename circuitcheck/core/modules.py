"""Where damage is, by layer and module: what giving one module the reference's output gives back."""

from __future__ import annotations

from dataclasses import dataclass

from circuitcheck.core.intervals import Estimate


@dataclass(frozen=True)
class Module:
    """A layer's whole attention, or its whole MLP.

    Attributes:
        unit: its label, `attention 3` or `mlp 3`.
        layer: from 0.
        column: its place in the layer, from 0.
        recovery: share of the damage that repairing it alone gives back; NaN where the damage is not resolved.
        left: mean over prompts of |m_ref - m_repaired|, over that of |m_ref - m_cand|: what repairing it alone leaves
            of what moved each prompt, dimensionless; 0 for the one place that all damage comes from.
        drift: how far its output has moved, read in logits, relative; damage in earlier layers is part of that.
    """

    unit: str
    layer: int
    column: int
    recovery: Estimate
    left: float
    drift: float


@dataclass(frozen=True)
class Placing:
    """All modules, and those that the damage comes from.

    Attributes:
        prompts: how many were looked at.
        modules: in order.
        culprits: the fewest, first the one that leaves least when repaired alone, that together leave at most a fifth;
            none where not even all do.
        left: what these leave together; where there are none, what all modules leave.
    """

    prompts: int
    modules: tuple[Module, ...]
    culprits: tuple[str, ...]
    left: float
