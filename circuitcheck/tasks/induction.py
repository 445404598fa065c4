"""Induction: a random word sequence repeated (Olsson et al. 2022, arXiv:2209.11895)."""

from __future__ import annotations

import random
from collections.abc import Iterator

from circuitcheck.tasks.texts import TextPair, Usable, held_out, usable_words
from circuitcheck.tasks.word_lists import COMMON

PREFIX = "Words:"
LENGTHS = range(5, 13)
"""How many words are repeated."""

SHAPES = tuple(
    (length, total - length)
    for total, lengths in ((8, range(5, 8)), (11, range(6, 11)), (14, range(8, 13)), (18, range(10, 13)))
    for length in lengths
)
"""(words in the sequence, words of it repeated before the one asked for): a cluster each, of only four prompt lengths,
so that batches of one length stay large."""


def may_be_prompted(words: list[str]) -> bool:
    """Whether no training text repeats a sequence that starts with these words."""
    return held_out("induction", *words[:3])


def text(words: list[str], repeated: int) -> str:
    """`words`, then the first `repeated` of them again; the next one in the list comes next."""
    return " ".join([PREFIX, *words, *words[:repeated]])


def pairs(rng: random.Random, usable: Usable) -> Iterator[TextPair]:
    """Endless pairs; the counterfactual has another word at the place that will be copied."""
    common = usable_words(COMMON, usable)
    while True:
        for length, position in SHAPES:
            *words, other = _held_out_words(rng, common, length + 1)
            changed = [*words[:position], other, *words[position + 1 :]]
            yield TextPair(
                clean=text(words, position),
                counterfactual=text(changed, position),
                answer=f" {words[position]}",
                foil=f" {other}",
                cluster=f"{length:02d}-words-{position}-repeated",
            )


def _held_out_words(rng: random.Random, common: list[str], count: int) -> list[str]:
    while True:
        words = rng.sample(common, count)
        if may_be_prompted(words):
            return words
