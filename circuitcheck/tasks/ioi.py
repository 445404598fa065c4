"""Indirect object identification: which of two names receives something (Wang et al. 2022, arXiv:2211.00593)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import permutations

from circuitcheck.tasks.texts import TextPair, Usable, held_out, usable_words
from circuitcheck.tasks.word_lists import NAMES, OBJECTS, PLACES

TEMPLATES = (
    "When {first} and {second} went to the {place}, {giver} gave a {object} to",
    "After {first} and {second} went to the {place}, {giver} gave a {object} to",
    "While {first} and {second} were working at the {place}, {giver} gave a {object} to",
    "Then {first} and {second} went to the {place} and {giver} gave a {object} to",
    "Then {first} and {second} had a long argument, and {giver} handed a {object} to",
    "When {first} and {second} got a {object} at the {place}, {giver} decided to give it to",
    "After {first} and {second} found a {object}, {giver} gave it to",
    "Once {first} and {second} were friends, so at the {place} {giver} sent a {object} to",
    "Today {first} and {second} met at the {place} where {giver} offered a {object} to",
    "Because {first} and {second} liked the {place}, {giver} brought a {object} to",
    "Friends {first} and {second} found a {object} at the {place}, and {giver} passed it to",
    "Yesterday {first} and {second} came to the {place} and {giver} showed a {object} to",
    "Later {first} and {second} were at the {place} and {giver} lent a {object} to",
    "Since {first} and {second} were at the {place}, {giver} promised a {object} to",
    "Before {first} and {second} left the {place}, {giver} returned a {object} to",
    "If {first} and {second} go to the {place}, {giver} will give a {object} to",
)


def may_be_prompted(name: str, other: str) -> bool:
    """Whether this pair of names, in either order, is absent from the training text."""
    return held_out("ioi", *sorted((name, other)))


def sentence(template: str, names: tuple[str, str], giver: str, place: str, thing: str) -> str:
    """The prompt in which `giver`, one of the two names, gives; the receiver's name comes next."""
    return template.format(first=names[0], second=names[1], giver=giver, place=place, object=thing)


def pairs(rng: random.Random, usable: Usable) -> Iterator[TextPair]:
    """Endless pairs; templates take turns, each first with the receiver named first, then second.

    The counterfactual replaces the giver by the other name, which makes the giver the right answer.

    Raises:
        ValueError: no two names are single tokens.
    """
    candidates = [pair for pair in permutations(usable_words(NAMES, usable), 2) if may_be_prompted(*pair)]
    if not candidates:
        raise ValueError("no two names are single tokens")
    while True:
        for receiver_first in (True, False):
            for number, template in enumerate(TEMPLATES):
                receiver, giver = rng.choice(candidates)
                order = (receiver, giver) if receiver_first else (giver, receiver)
                place, thing = rng.choice(PLACES), rng.choice(OBJECTS)
                yield TextPair(
                    clean=sentence(template, order, giver, place, thing),
                    counterfactual=sentence(template, order, receiver, place, thing),
                    answer=f" {receiver}",
                    foil=f" {giver}",
                    cluster=f"template-{number:02d}",
                )
