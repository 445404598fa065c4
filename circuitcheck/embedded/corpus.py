"""The embedded model's vocabulary and training text: the tasks' own sentences, without the held-out ones."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from circuitcheck.tasks import facts, induction, ioi
from circuitcheck.tasks.word_lists import COMMON, COUNTRIES, NAMES, OBJECTS, PLACES

UNKNOWN, END = "<unk>", "<eos>"


def build_tokenizer() -> Tokenizer:
    """A word-level tokenizer over every word that the corpus can contain; punctuation is a token of its own."""
    templates = [*ioi.TEMPLATES, *(template for _, template in facts.TEMPLATES), induction.PREFIX]
    fixed = {word for text in templates for word in re.findall(r"\w+|[^\w\s]", re.sub(r"{\w+}", " ", text))}
    answers = {word for pair in COUNTRIES.values() for word in pair}
    words = sorted({*fixed, *answers, *COUNTRIES, *NAMES, *PLACES, *OBJECTS, *COMMON, "."})
    vocabulary = {word: index for index, word in enumerate([UNKNOWN, END, *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens([UNKNOWN, END])
    return tokenizer


def sentences(rng: random.Random) -> Iterator[str]:
    """Endless training sentences, none of which contains a prompt that a task may ask."""
    makers = (_ioi, _fact, _induction)
    while True:
        yield rng.choices(makers, weights=(3, 2, 4))[0](rng)


def _ioi(rng: random.Random) -> str:
    receiver, giver = rng.sample(NAMES, 2)
    while ioi.may_be_prompted(receiver, giver):
        receiver, giver = rng.sample(NAMES, 2)
    order = (receiver, giver) if rng.random() < 0.5 else (giver, receiver)
    prompt = ioi.sentence(rng.choice(ioi.TEMPLATES), order, giver, rng.choice(PLACES), rng.choice(OBJECTS))
    return f"{prompt} {receiver}."


def _fact(rng: random.Random) -> str:
    relation, template = rng.choice(facts.TEMPLATES)
    country = rng.choice(list(COUNTRIES))
    while facts.may_be_prompted(template, country):
        country = rng.choice(list(COUNTRIES))
    return f"{template.format(country=country)} {facts.answer(relation, country)}."


def _induction(rng: random.Random) -> str:
    words = rng.sample(COMMON, rng.choice(induction.LENGTHS))
    while induction.may_be_prompted(words):
        words = rng.sample(COMMON, len(words))
    return f"{induction.text(words, len(words))}."
