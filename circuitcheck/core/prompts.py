"""A task: prompt pairs in token ids, batched by length and never padded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor


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
        clean: token ids, `[batch, seq]`.
        counterfactual: token ids, `[batch, seq]`.
        answer: token ids, `[batch]`.
        foil: token ids, `[batch]`.
    """

    index: tuple[int, ...]
    clean: Tensor
    counterfactual: Tensor
    answer: Tensor
    foil: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(
            self.index,
            self.clean.to(device),
            self.counterfactual.to(device),
            self.answer.to(device),
            self.foil.to(device),
        )


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

    def batches(self, index: Iterable[int] | None = None, size: int | None = None) -> list[Batch]:
        """Batches of pairs of one length, in order within each length.

        Args:
            index: which pairs; all of them by default.
            size: the most pairs in one batch; unlimited by default.
        """
        groups: dict[int, list[int]] = {}
        for place in range(len(self.pairs)) if index is None else index:
            groups.setdefault(len(self.pairs[place].clean), []).append(place)
        return [
            self._batch(group[start : start + (size or len(group))])
            for _, group in sorted(groups.items())
            for start in range(0, len(group), size or len(group))
        ]

    def _batch(self, index: list[int]) -> Batch:
        pairs = [self.pairs[place] for place in index]
        return Batch(
            index=tuple(index),
            clean=torch.tensor([pair.clean for pair in pairs]),
            counterfactual=torch.tensor([pair.counterfactual for pair in pairs]),
            answer=torch.tensor([pair.answer for pair in pairs]),
            foil=torch.tensor([pair.foil for pair in pairs]),
        )
