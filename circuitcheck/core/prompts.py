"""Tasks: prompt pairs in token ids, batched by length and never padded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PromptPair:
    """A clean prompt and its counterfactual, of the same token length, with one answer and one fixed foil.

    Attributes:
        clean: token ids of the clean prompt; the metric is read at its last position.
        counterfactual: token ids of the counterfactual.
        answer: token id that the reference should prefer after `clean`.
        foil: token id that it is compared with.
        cluster: template that the pair comes from.
    """

    clean: tuple[int, ...]
    counterfactual: tuple[int, ...]
    answer: int
    foil: int
    cluster: str


@dataclass(frozen=True)
class Batch:
    """Pairs of one length.

    Attributes:
        index: place of each pair in its task, `[batch]`.
        clean: token ids, int64 `[batch, seq]`.
        counterfactual: token ids, `[batch, seq]`.
        answer: token ids, `[batch]`.
        foil: token ids, `[batch]`.
    """

    index: tuple[int, ...]
    clean: NDArray[np.int64]
    counterfactual: NDArray[np.int64]
    answer: NDArray[np.int64]
    foil: NDArray[np.int64]

    @property
    def alike(self) -> int:
        """How many first tokens every clean prompt has in common with its counterfactual."""
        differs = (self.clean != self.counterfactual).any(axis=0)
        return int(differs.argmax()) if differs.any() else differs.size


@dataclass(frozen=True)
class Task:
    """A named list of prompt pairs.

    Attributes:
        name: what reports and baseline files call it.
        pairs: the pairs, clusters mixed, so that the first few already cover many clusters.
    """

    name: str
    pairs: tuple[PromptPair, ...]

    @property
    def clusters(self) -> list[str]:
        """Template cluster of every pair, `[prompts]`."""
        return [pair.cluster for pair in self.pairs]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all pairs in order."""
        canonical = json.dumps([asdict(pair) for pair in self.pairs], sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(pair.clean) for pair in self.pairs)

    @property
    def largest_token(self) -> int:
        """The largest token id in any prompt, answer or foil."""
        return max(max(*pair.clean, *pair.counterfactual, pair.answer, pair.foil) for pair in self.pairs)

    def prompts(self, index: Iterable[int] | None = None, most: int | None = None) -> Prompts:
        """Some of its prompts, all of them by default, at most so many in one batch."""
        return Prompts(self, tuple(range(len(self.pairs)) if index is None else index), most)


@dataclass(frozen=True)
class Prompts:
    """Prompts that are run together.

    Attributes:
        task: where they are from; a mean over the task is over all of it, whichever of its prompts are run.
        index: their places in it; results are in this order.
        most: the most of them in one batch; as many as the runtime allows by default.
    """

    task: Task
    index: tuple[int, ...]
    most: int | None = None

    def __len__(self) -> int:
        """How many there are."""
        return len(self.index)

    @cached_property
    def columns(self) -> dict[int, int]:
        """Place in the task to place among these."""
        return {place: column for column, place in enumerate(self.index)}

    def batches(self, most: int | None = None) -> list[Batch]:
        """Batches of pairs of one length, in order within each length.

        Args:
            most: the most pairs in one batch, `self.most` at the most; unlimited by default.
        """
        size = min((limit for limit in (most, self.most) if limit is not None), default=None)
        groups: dict[int, list[int]] = {}
        for place in self.index:
            groups.setdefault(len(self.task.pairs[place].clean), []).append(place)
        return [
            self._batch(group[start : start + (size or len(group))])
            for _, group in sorted(groups.items())
            for start in range(0, len(group), size or len(group))
        ]

    def _batch(self, index: Sequence[int]) -> Batch:
        pairs = [self.task.pairs[place] for place in index]
        return Batch(
            index=tuple(index),
            clean=np.array([pair.clean for pair in pairs], np.int64),
            counterfactual=np.array([pair.counterfactual for pair in pairs], np.int64),
            answer=np.array([pair.answer for pair in pairs], np.int64),
            foil=np.array([pair.foil for pair in pairs], np.int64),
        )
