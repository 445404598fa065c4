"""What a task is before it meets a tokenizer: prompts as text, and which of them no model was trained on."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Usable = Callable[[str], bool]
"""Tells whether a word is one token where it continues a text."""

HELD_OUT_SHARE = 0.25


@dataclass(frozen=True)
class TextPair:
    """A clean prompt and its counterfactual, with the continuations that the metric compares.

    Attributes:
        clean: the prompt, up to and without the answer.
        counterfactual: the same prompt with one word changed, so that `foil` is the right continuation.
        answer: what literally continues `clean`, leading space included.
        foil: what literally continues `counterfactual`.
        cluster: the template that both come from; prompts of one cluster are resampled together.
    """

    clean: str
    counterfactual: str
    answer: str
    foil: str
    cluster: str


Generator = Callable[[random.Random, Usable], Iterator[TextPair]]
"""An endless stream of pairs, the clusters taking turns."""


def held_out(*parts: str) -> bool:
    """Whether this combination is kept out of the embedded model's training text, and so may be a prompt.

    Depends on the words alone (not on a seed), so that the training script and the tasks can never disagree.
    """
    digest = hashlib.sha256("|".join(parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def usable_words(words: tuple[str, ...], usable: Usable) -> list[str]:
    """Those of `words` that are one token as a continuation."""
    return [word for word in words if usable(word)]
