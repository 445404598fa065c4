"""Prompts of one length with what they are measured by and what is put into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Prompts:
    """Prompts of one length.

    Attributes:
        ids: token ids, `[batch, seq]`.
        answer: token ids, `[batch]`.
        foil: token ids, `[batch]`.
        values: for each layer what replaces `z`, `[batch, seq, n_heads, d_head]`, or `[batch, 1, n_heads, d_head]` to
            replace the answer position only.
    """

    ids: Tensor
    answer: Tensor
    foil: Tensor
    values: Sequence[Tensor]

    def __len__(self) -> int:
        """How many prompts there are."""
        return len(self.ids)

    def part(self, prompts: slice) -> Prompts:
        """Some of the prompts."""
        return Prompts(
            self.ids[prompts], self.answer[prompts], self.foil[prompts], [value[prompts] for value in self.values]
        )
