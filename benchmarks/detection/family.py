"""What a family of candidates is, and one candidate in the making."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from circuitcheck.core.units import Unit
from detection import quantizing, surgery
from detection.anatomy import head_counts, layers_of
from detection.subjects import Model
from detection.truth import circuit_heads, shares_of

Touched = Mapping[Unit, float]
"""Head to the share of what it does that an edit changes; empty where it is not a matter of single heads."""


@dataclass(frozen=True)
class Job:
    """One candidate in the making.

    Attributes:
        model: the reference; nothing may change it.
        module: a copy, which is edited in place.
        precision: what the candidate claims.
        seed: of everything random; also which variant of the family it is.
        rng: of the seed.
        cache: where trained weights are kept.
    """

    model: Model
    module: Any
    precision: str
    seed: int
    rng: random.Random
    cache: Path

    @property
    def generator(self) -> torch.Generator:
        """Of the seed, too."""
        return torch.Generator().manual_seed(self.rng.randrange(2**31))

    @property
    def bits(self) -> int:
        """Of a weight."""
        return int(self.precision.removesuffix("-bit"))

    @property
    def layers(self) -> int:
        """How many the model has."""
        return len(layers_of(self.module))

    def head(self) -> Unit:
        """A head of a circuit; one time of four any head."""
        shares = shares_of(self.model)
        some = circuit_heads(shares)
        return self.rng.choice(some if self.seed % 4 != 3 else sorted(next(iter(shares.values()))))

    def neighbour(self, head: Unit) -> Unit:
        """Another head of the same layer, of another key/value group where there is one."""
        heads, groups = head_counts(self.module)
        width = heads // groups
        return (head[0], self.rng.choice([one for one in range(heads) if one // width != head[1] // width]))

    def choice(self, *some: Any) -> Any:
        """One of some, in turn with the seed."""
        return some[self.seed % len(some)]

    def part(self) -> list[str]:
        """Linear maps of one layer, or every fourth time of all."""
        layer = self.rng.randrange(self.layers) if self.seed % 4 != 3 else None
        return surgery.paths_of(self.module, layer)


@dataclass(frozen=True)
class Family:
    """One kind of candidate.

    Attributes:
        name: of the family.
        benign: whether a gate must pass it.
        edit: in place, in float32; gives what heads it touches. Raises LookupError where the model has no such thing.
        quantize: in place, after that.
        precisions: that it can claim.
        seeds: how many variants there are, at most.
    """

    name: str
    benign: bool
    edit: Callable[[Job], Touched]
    quantize: Callable[[Job], None]
    precisions: tuple[str, ...]
    seeds: int

    def make(self, model: Model, seed: int, precision: str, cache: Path) -> tuple[nn.Module, Touched]:
        """A copy of the model, edited and quantized, and the heads that the edit touches.

        Raises:
            LookupError: the family does not apply to this model.
        """
        module = deepcopy(model.module)
        rng = random.Random(f"{model.name} {self.name} {seed}")
        job = Job(model, module, precision, seed, rng, cache)
        touched = self.edit(job)
        self.quantize(job)
        return module, touched

    def alone(self, model: Model, seed: int, cache: Path) -> tuple[nn.Module, Touched]:
        """The same edit without any rounding."""
        module = deepcopy(model.module)
        rng = random.Random(f"{model.name} {self.name} {seed}")
        return module, self.edit(Job(model, module, "f32", seed, rng, cache))


def plainly(job: Job) -> None:
    """Rounds as plainly as can be to what the candidate claims."""
    quantizing.quantize(job.module, job.precision)
