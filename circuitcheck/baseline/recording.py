"""What is recorded of a reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from circuitcheck.baseline.beside import Beside
from circuitcheck.baseline.feature_record import FeatureRecord
from circuitcheck.baseline.kept_population import Population
from circuitcheck.baseline.noise_floor import Change, Noise, floor_of
from circuitcheck.baseline.rounded import Rounded
from circuitcheck.core.activations import Activations
from circuitcheck.core.features import LEAST_EXPLAINED
from circuitcheck.core.next_token import NextToken
from circuitcheck.core.prompts import Prompts, Task
from circuitcheck.core.reading import Reading
from circuitcheck.core.routes import Routes
from circuitcheck.core.specification import METRICS, MeasurementSpec
from circuitcheck.core.units import Layout, Unit

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Recording:
    """The reference circuit of one (model, task), with all that a candidate is compared with.

    Attributes:
        model: the reference's name.
        architecture: class, layers, heads and head width, which a candidate must share.
        task: the prompts that were measured.
        spec: what was measured.
        fingerprints: SHA-256 of `weights` and `tokenizer`.
        layout: all units, in order; of a kind that has too many, those that are measured.
        measured: those whose importance was measured, in order; all of them but in a screened sweep.
        metric: m of every clean prompt, in logits, `[prompts]`.
        counterfactual: m of every counterfactual prompt, `[prompts]`.
        solved: places of the prompts that count, `[solved]`.
        ablated: kind to m with each measured unit ablated, `[measured, solved]`; where only some of many units are
            measured, on the first of the solved prompts if it was recorded so.
        z: values of all units on the first `spec.part` solved prompts.
        gradient: dm/dz at the same places as `z`.
        reading: how the units are read in logits, whatever basis they keep `z` in.
        ceiling: the reference's own split-half ranking agreement; None where it solves too little.
        noise: how far the reference was seen to move from itself, by instruction set and source.
        next_token: what it says comes next after every solved prompt; None where it predicts no tokens.
        roundings: what plain rounding does to the reference.
        population: what is kept of all units, where only some of them are measured.
        beside: units of another kind, by whose repair damage is placed; None where there are none.
        features: what is kept of features beside that; None of other kinds of unit.
        routes: which experts the tokens of these prompts are given to, where it is a mixture that shows it.
        environment: versions and instruction set that it was recorded with.
        reason: why it was accepted.
        notes: what a reader must know about how it was measured.
    """

    model: str
    architecture: dict[str, Any]
    task: Task
    spec: MeasurementSpec
    fingerprints: dict[str, str]
    layout: Layout
    measured: tuple[Unit, ...]
    metric: FloatArray
    counterfactual: FloatArray
    solved: tuple[int, ...]
    ablated: dict[str, FloatArray]
    z: Activations
    gradient: Activations
    reading: Reading
    ceiling: float | None
    noise: Noise
    environment: dict[str, Any]
    reason: str
    notes: tuple[str, ...]
    next_token: NextToken | None = None
    roundings: tuple[Rounded, ...] = ()
    population: Population | None = None
    beside: Beside | None = None
    features: FeatureRecord | None = None
    routes: tuple[Routes, ...] = ()

    @property
    def solved_prompts(self) -> Prompts:
        """The prompts that count."""
        return self.task.prompts(self.solved)

    @property
    def part(self) -> Prompts:
        """Those of them that values of units are kept of."""
        return self.task.prompts(self.z.index)

    @property
    def noise_floor(self) -> Change:
        """Largest change of the reference against itself, by measure."""
        return floor_of(self.noise)

    @property
    def all_fingerprints(self) -> dict[str, str]:
        """Fingerprints of weights, tokenizer, prompts and measurement spec."""
        return {**self.fingerprints, "prompts": self.task.fingerprint, "spec": self.spec.fingerprint}

    @property
    def measured_with(self) -> dict[str, str]:
        """The same, and of every dictionary by which features were read, by the group that they are."""
        return {**self.all_fingerprints, **({} if self.features is None else self.features.fingerprints)}

    @property
    def solved_clusters(self) -> list[str]:
        """Template cluster of every solved prompt, `[solved]`."""
        return [self.task.pairs[place].cluster for place in self.solved]

    @property
    def incompetence(self) -> str | None:
        """Why the reference says nothing about this task; None where it does."""
        solved, prompts, clusters = len(self.solved), len(self.task.pairs), len(set(self.solved_clusters))
        what = "logit difference" if self.spec.metric in METRICS else self.spec.metric
        if solved < self.spec.minimum_solved * prompts:
            return (
                f"the reference solves {solved} of {prompts} prompts ({what} above {self.spec.margin:g}); "
                f"at least {self.spec.minimum_solved:.0%} are needed"
            )
        if clusters < self.spec.minimum_clusters:
            return (
                f"the solved prompts come from {clusters} template cluster(s); intervals need at least "
                f"{self.spec.minimum_clusters}"
            )
        if self.features is not None and self.features.unexplained:
            return (
                f"too little of the reference is explained by its dictionaries: {self.features.unexplained} of the "
                f"variance at its hook point, and at least {LEAST_EXPLAINED:.0%} is needed"
            )
        return None

    def first(self, prompts: int) -> Self:
        """The same of the first so many prompts of the task, which cover as many clusters as they can.

        What is recorded of the whole task stays: the ceiling, the noise, what rounding does, and the task itself, over
        all of which a mean is taken.
        """
        solved = tuple(place for place in self.solved if place < prompts)
        count, said, positions = len(solved), self.next_token, self._positions(solved[: self.spec.part])
        return replace(
            self,
            solved=solved,
            ablated={kind: metric[:, :count] for kind, metric in self.ablated.items()},
            z=self.z.first(count),
            gradient=self.gradient.first(count),
            next_token=None if said is None else said.first(count),
            population=None if self.population is None else self.population.first(count),
            beside=None if self.beside is None else self.beside.first(count),
            features=None if self.features is None else self.features.first(positions),
            routes=tuple(one.first(positions) for one in self.routes),
        )

    def rounded_as(self, other: Recording) -> Self:
        """The same with what plain rounding does by another recording of the same units on the same prompts."""
        features = self.features
        if features is not None and other.features is not None:
            features = replace(features, surviving=other.features.surviving)
        return replace(self, roundings=other.roundings, features=features)

    @property
    def largest_token(self) -> int:
        """The largest token id that a candidate is asked about: in prompts, what is read, and what comes next."""
        more = [one.reading for one in (self.population, self.beside) if one is not None]
        read = [one.tokens[-1] for one in (self.reading, *more) if one.source != "sketch" and one.tokens]
        said = () if self.next_token is None else (self.next_token.tokens, self.next_token.likeliest)
        return max(self.task.largest_token, *read, *(int(tokens.max(initial=0)) for tokens in said))

    def _positions(self, prompts: Sequence[int]) -> int:
        """How many positions so many clean prompts have."""
        return sum(len(self.task.pairs[place].clean) for place in prompts)

    def importance(self, kind: str) -> NDArray[np.float64]:
        """Mean over solved prompts of m(clean) - m(unit ablated), in logits, `[measured]`."""
        return np.asarray(self.effects(kind).mean(axis=1))

    @property
    def ablated_on(self) -> Prompts:
        """The prompts on which units were ablated."""
        return self.task.prompts(self.solved[: next(iter(self.ablated.values())).shape[1]])

    def effects(self, kind: str) -> NDArray[np.float64]:
        """m(clean) - m(unit ablated), in logits, `[measured, prompts]`, as `ablated` has them."""
        clean = self.metric[list(self.ablated_on.index)].astype(np.float64)
        return clean[None] - self.ablated[kind].astype(np.float64)

    def effects_of_part(self, kind: str) -> NDArray[np.float64]:
        """The same of the prompts that values of units are kept of, `[measured, part]`."""
        return self.effects(kind)[:, : len(self.z.index)]

    def of_part(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Of values `[..., solved]` those of the prompts that values of units are kept of."""
        columns = self.solved_prompts.columns
        return np.asarray(values[..., [columns[prompt] for prompt in self.z.index]], np.float64)
