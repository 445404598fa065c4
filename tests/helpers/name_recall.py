"""A task for a small storyteller: which of two children was named at the beginning."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

NAMES = (("Lily", "Tim"), ("Tim", "Lily"))
KINDS = ("girl", "boy", "child", "friend", "bird", "cat")
TEMPLATES = (
    "{name} was a happy {kind}. {name} liked to play in the park. One day,",
    "{name} was a little {kind}. {name} liked to play with a red ball. One day,",
    "Once upon a time, there was a {kind} named {name}. {name} was very happy. One day,",
    "One day, a {kind} named {name} went to the park. {name} saw a big tree. Then",
    "There was a {kind}. {name} was the name of the {kind}. {name} had a toy. One day,",
    "{name} was a big {kind}. {name} had a mom and a dad. {name} was sad. One day,",
    "{name} and mom were in the house. {name} was a good {kind}. Then",
    "{name} was a {kind} who liked to run. {name} ran and ran. One day,",
)


def write_names(file: Path) -> Path:
    """Every template with every kind and name, a prompt pair a line; a cluster is a template."""
    lines = []
    for (number, template), kind, (name, other) in product(enumerate(TEMPLATES), KINDS, NAMES):
        lines.append(
            {
                "clean": template.format(name=name, kind=kind),
                "counterfactual": template.format(name=other, kind=kind),
                "answer": f" {name}",
                "foil": f" {other}",
                "cluster": f"template {number}",
            }
        )
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file
