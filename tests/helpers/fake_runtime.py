"""A runtime of a few numpy lines: two linear heads whose every number can be worked out with pencil and paper.

A token is the number that it is. At every position head 0 has the first token, head 1 the sum of all tokens up to
there, and the MLP the token itself; at the last position

    m = (answer - foil) * (2 * head 0 + head 1 + MLP)

As `block`, the attention is 2 * head 0 + head 1, and the MLP is measured, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.activations import Activations, join
from circuitcheck.core.errors import ConfigurationError, ModelChangedError, SiteError
from circuitcheck.core.metric import LOGIT_DIFFERENCE, Metric
from circuitcheck.core.next_token import NextToken
from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import Batch, PromptPair, Prompts, Task
from circuitcheck.core.reading import Reading
from circuitcheck.core.runtime import Facts, Rounding, Runtime, Variation, Work
from circuitcheck.core.units import Group, Layout

Values = list[NDArray[np.float32]]
"""For each group `[batch, seq, count, width]`."""

GROUPS = {
    "head": (Group("0", 0, 2, 1),),
    "block": (Group("attention 0", 0, 1, 1, numbered=False), Group("mlp 0", 0, 1, 1, numbered=False)),
}
WEIGHTS = {"head": ((2.0, 1.0),), "block": ((1.0,), (1.0,))}
"""What each unit counts in m, for each group `[count]`."""


@dataclass(frozen=True)
class FakeRuntime:
    """Two heads, each of which may be off by a factor.

    Attributes:
        gains: factor of each head; a mutable list, so that a measurement could change it.
        name: how reports call it.
        precision: whose limits apply.
        weights: the fingerprint.
        quantity: what is measured.
        seen: what was asked of it: names of methods, and the memory budget of those that get one.
    """

    gains: list[float] = field(default_factory=lambda: [1.0, 1.0])
    name: str = "fake"
    precision: str = "f32"
    weights: str = "a" * 64
    quantity: Metric = LOGIT_DIFFERENCE
    seen: list[tuple[str, int | None]] = field(default_factory=list, compare=False)

    tokenizer = None

    @property
    def facts(self) -> Facts:
        return Facts(
            name=self.name,
            precision=self.precision,
            architecture={"class": "Fake", "n_layers": 1},
            fingerprints={"weights": self.weights, "tokenizer": "none"},
            environment={"device": "pencil", "instruction_set": "PAPER", "libraries": {}, "python": "3"},
        )

    def measured_by(self, metric: str | Metric) -> FakeRuntime:
        if metric in (self.quantity, self.quantity.name):
            return self
        raise ConfigurationError(f"{self.name} knows no metric {metric!r}.")

    def probed(self, prompts: Prompts) -> FakeRuntime:
        return self

    def layout(self, kind: str) -> Layout:
        if kind not in GROUPS:
            raise SiteError(f"{self.name} has no {kind}.")
        return Layout(kind, GROUPS[kind])

    def narrowed(self, layout: Layout) -> FakeRuntime:
        if layout != self.layout(layout.kind):
            raise SiteError(f"{self.name} has few units, and is asked for some of them.")
        return self

    def reading(self, kind: str, tokens: Sequence[int], amplitudes: Sequence[float] | None = None) -> Reading:
        """The unembedding of a token is the token itself."""
        rows = np.array(tokens, np.float32)[None, :, None]
        maps = tuple(rows * np.array(weights, np.float32)[:, None, None] for weights in WEIGHTS[kind])
        return Reading("unembedding", tuple(tokens), maps)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        before = list(self.gains)
        yield
        if self.gains != before:
            raise ModelChangedError(f"{self.name}: gains were {before} and are {self.gains}")

    def prove(self, prompts: Prompts, kind: str) -> None:
        own = self.activations(prompts, kind)
        written = self.patched(prompts, Patch(kind, (self.layout(kind).units,), own), Work())
        if not np.array_equal(written[0], self.metric(prompts)):
            raise SiteError(f"{self.name}: writing back what was read changes the metric.")

    def metric(self, prompts: Prompts, *, counterfactual: bool = False) -> NDArray[np.float32]:
        result = np.empty(len(prompts), np.float32)
        for batch in prompts.batches():
            ids = batch.counterfactual if counterfactual else batch.clean
            result[_columns(prompts, batch)] = self._read("head", self._values("head", ids), batch, ids)
        return result

    def next_token(self, prompts: Prompts, tokens: NDArray[np.int32] | None = None) -> NextToken:
        """Token 1 or token 0, whose logits differ by the same as answer and foil do."""
        said = self._read_all(prompts)
        both = np.stack([np.zeros_like(said), said], -1)
        log_probabilities = (both - np.logaddexp(0, said)[:, None]).astype(np.float32)
        chosen = np.tile(np.array([0, 1], np.int32), (len(said), 1)) if tokens is None else tokens
        return NextToken(
            chosen, np.take_along_axis(log_probabilities, chosen.astype(np.int64), 1), (said > 0).astype(np.int32)
        )

    def metric_and_next_token(
        self, prompts: Prompts, tokens: NDArray[np.int32]
    ) -> tuple[NDArray[np.float32], NextToken]:
        """Both."""
        return self.metric(prompts), self.next_token(prompts, tokens)

    def activations(self, prompts: Prompts, kind: str) -> Activations:
        return self._joined(((batch, self._values(kind, batch.clean)) for batch in prompts.batches()), kind)

    def replacements(self, prompts: Prompts, patch: Patch) -> Activations:
        return self._joined(
            ((batch, self._replacing(batch, patch, prompts)) for batch in prompts.batches()), patch.kind
        )

    def patched(self, prompts: Prompts, patch: Patch, work: Work) -> NDArray[np.float32]:
        self.seen.append(("patched", work.memory))
        result = np.empty((len(patch.sets), len(prompts)), np.float32)
        for batch in prompts.batches():
            new = self._replacing(batch, patch, prompts)
            for number, units in enumerate(patch.sets):
                values = self._values(patch.kind, batch.clean)
                for group, unit in units:
                    values[group][:, -new[group].shape[1] :, unit] = new[group][:, :, unit]
                result[number, _columns(prompts, batch)] = self._read(patch.kind, values, batch, batch.clean)
                work.advance(len(batch.index))
        return result

    def gradient(
        self,
        prompts: Prompts,
        kind: str,
        at: Activations | None = None,
        *,
        held: bool = False,
        work: Work | None = None,
    ) -> tuple[NDArray[np.float32], Activations]:
        """M is linear and no unit reads another, so the gradient is the same everywhere, held or not."""
        self.seen.append(("gradient", None if work is None else work.memory))
        parts = []
        for batch in prompts.batches():
            slopes = [np.zeros_like(values) for values in self._values(kind, batch.clean)]
            for slope, weights in zip(slopes, WEIGHTS[kind], strict=True):
                slope[:, -1, :, 0] = (batch.answer - batch.foil)[:, None] * np.array(weights)
            parts.append((batch, slopes))
        values = self.activations(prompts, kind) if at is None else at
        patch = Patch(kind, (self.layout(kind).units,), values)
        return self.patched(prompts, patch, work or Work())[0], self._joined(parts, kind)

    def variations(
        self, prompts: Prompts | None = None, reload: Callable[[], Runtime] | None = None
    ) -> Sequence[Variation]:
        usual = [Variation("one prompt a batch", most=1)]
        if prompts is None:
            return usual
        return [
            *usual,
            Variation("prompt order: reversed", order=tuple(reversed(range(len(prompts))))),
            *([Variation("loaded again", reload=reload)] if reload else []),
        ]

    def roundings(self, prompts: Prompts | None = None) -> Sequence[Rounding]:
        """Head 1 of half its size, or of three quarters: what 4 bits do to pencil and paper."""
        return [
            Rounding("4-bit", name, lambda gain=gain: replace(self, gains=[1.0, gain], precision="4-bit"))  # type: ignore[misc]
            for name, gain in (("coarse", 0.5), ("fine", 0.75))
        ]

    def _read_all(self, prompts: Prompts) -> NDArray[np.float64]:
        """M of every clean prompt whose answer is 1 and whose foil is 0."""
        result = np.empty(len(prompts))
        for batch in prompts.batches():
            unit = replace(batch, answer=np.ones_like(batch.answer), foil=np.zeros_like(batch.foil))
            result[_columns(prompts, batch)] = self._read("head", self._values("head", batch.clean), unit, batch.clean)
        return result

    def _values(self, kind: str, ids: NDArray[np.int64]) -> Values:
        first, sums = np.broadcast_to(ids[:, :1], ids.shape), ids.cumsum(1)
        heads = [gain * values for gain, values in zip(self.gains, (first, sums), strict=True)]
        groups = [heads] if kind == "head" else [[2 * heads[0] + heads[1]], [ids]]
        return [np.stack(units, -1)[..., None].astype(np.float32) for units in groups]

    def _read(self, kind: str, values: Values, batch: Batch, ids: NDArray[np.int64]) -> NDArray[Any]:
        read = sum(group[:, -1, :, 0] @ np.array(weights) for group, weights in zip(values, WEIGHTS[kind], strict=True))
        return (batch.answer - batch.foil) * (read + (ids[:, -1] if kind == "head" else 0))

    def _replacing(self, batch: Batch, patch: Patch, prompts: Prompts) -> Values:
        if isinstance(patch.values, Activations):
            return patch.values.rows(batch.index)
        if patch.values == "resample":
            new = self._values(patch.kind, batch.counterfactual)
        elif patch.values == "zero":
            new = [np.zeros_like(values) for values in self._values(patch.kind, batch.clean)]
        else:
            new = self._means(batch, patch.kind, prompts.task)
        return [values[:, -1:] for values in new] if patch.positions == "answer" else new

    def _means(self, batch: Batch, kind: str, task: Task) -> Values:
        """Over clean and counterfactual prompts of the whole task, per position counted back from the answer."""
        every = [ids for other in task.prompts().batches() for ids in (other.clean, other.counterfactual)]
        rows = [self._values(kind, ids) for ids in every]
        length = batch.clean.shape[1]
        means = [
            np.stack(
                [
                    np.concatenate([row[group][:, -back] for row in rows if row[group].shape[1] >= back]).mean(0)
                    for back in range(length, 0, -1)
                ]
            )
            for group in range(len(GROUPS[kind]))
        ]
        return [np.broadcast_to(mean, (len(batch.index), *mean.shape)) for mean in means]

    def _joined(self, parts: Any, kind: str) -> Activations:
        rows = {
            place: [group[number] for group in groups]
            for batch, groups in parts
            for number, place in enumerate(batch.index)
        }
        return join(rows, self.layout(kind))


def _columns(prompts: Prompts, batch: Batch) -> list[int]:
    return [prompts.columns[place] for place in batch.index]


def off(second: float, precision: str = "int4-rtn") -> FakeRuntime:
    """A candidate whose head 1 has a share of its size."""
    return FakeRuntime(gains=[1.0, second], name="candidate", precision=precision, weights="c" * 64)


def fake_task(prompts: int = 40) -> Task:
    """(3, 1) and (5, 1, 1) in turn, whose counterfactuals begin with 2 less.

    m is 6 + 4 + 1 = 11 and 10 + 7 + 1 = 18. Every template cluster has as many of either, so that all clusters have
    the same means, and intervals no width.
    """
    kinds = (((3, 1), (1, 1)), ((5, 1, 1), (3, 1, 1)))
    pairs = [(*kinds[number % 2], f"c{number // 2 % 8}") for number in range(prompts)]
    return Task("pencil", tuple(PromptPair(clean, other, 1, 0, cluster) for clean, other, cluster in pairs))


def with_weights(model: FakeRuntime, weights: str) -> FakeRuntime:
    """The same, fingerprinted otherwise."""
    return replace(model, weights=weights)
