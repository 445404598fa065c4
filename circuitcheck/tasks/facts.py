"""Factual recall: the capital and the language of a country."""

from __future__ import annotations

import random
from collections.abc import Iterator

from circuitcheck.tasks.texts import TextPair, Usable, held_out
from circuitcheck.tasks.word_lists import COUNTRIES

TEMPLATES = (
    ("capital", "The capital of {country} is"),
    ("capital", "The capital city of {country} is"),
    ("capital", "The capital of the country {country} is"),
    ("capital", "In {country} the capital is called"),
    ("capital", "The government of {country} sits in"),
    ("capital", "People who visit {country} fly to"),
    ("capital", "The largest embassy in {country} is in"),
    ("capital", "The president of {country} lives in"),
    ("language", "The language of {country} is"),
    ("language", "The people of {country} speak"),
    ("language", "The language spoken in {country} is"),
    ("language", "In {country} people speak"),
    ("language", "Children in {country} learn to read"),
    ("language", "The newspapers of {country} are written in"),
    ("language", "Most books in {country} are in"),
    ("language", "The radio in {country} is in"),
)
"""(relation, prompt); the answer follows the prompt."""


def answer(relation: str, country: str) -> str:
    """The capital or the language of `country`."""
    capital, language = COUNTRIES[country]
    return capital if relation == "capital" else language


def may_be_prompted(template: str, country: str) -> bool:
    """Whether the country is absent from this template in the training text."""
    return held_out("facts", template, country)


def pairs(rng: random.Random, usable: Usable) -> Iterator[TextPair]:
    """Endless pairs, the templates taking turns; the counterfactual names another country with another answer.

    Raises:
        ValueError: too few countries are single tokens.
    """
    questions = [
        (f"{relation}-{number:02d}", relation, template, _countries(relation, template, usable))
        for number, (relation, template) in enumerate(TEMPLATES)
    ]
    askable = [question for question in questions if len({answer(question[1], name) for name in question[3]}) > 1]
    if not askable:
        raise ValueError("no template has two countries with different answers that are single tokens")
    while True:
        for cluster, relation, template, countries in askable:
            country, other = rng.sample(countries, 2)
            while answer(relation, country) == answer(relation, other):
                country, other = rng.sample(countries, 2)
            yield TextPair(
                clean=template.format(country=country),
                counterfactual=template.format(country=other),
                answer=f" {answer(relation, country)}",
                foil=f" {answer(relation, other)}",
                cluster=cluster,
            )


def _countries(relation: str, template: str, usable: Usable) -> list[str]:
    return [
        country
        for country in COUNTRIES
        if usable(country) and usable(answer(relation, country)) and may_be_prompted(template, country)
    ]
