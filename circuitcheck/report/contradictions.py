"""Whether a report says what its own numbers say: it is a file, and anybody may have changed it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from circuitcheck.core.results import Estimate
from circuitcheck.report.conversion import DIGITS
from circuitcheck.report.fields import Entry
from circuitcheck.report.rows import outcome
from circuitcheck.verdict.criteria import BY_NAME
from circuitcheck.verdict.judgement import word_of, worst

ROUNDED = 10.0 ** (1 - DIGITS)
"""How far a number may have been rounded, relative to itself."""


def contradictions(document: Mapping[str, Any]) -> Iterator[str]:
    """What of a report does not follow from its own numbers, in words.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it lacks what every report has, or has it in another form.
    """
    for run in document["runs"]:
        yield from (f"{run['candidate']} on {run['task']}: {fault}" for fault in _of_run(run))
    if document["complete"] != (len(document["runs"]) == document["expected_runs"]):
        yield f"complete is {document['complete']}, with {len(document['runs'])} of {document['expected_runs']} runs"
    word = outcome(document).word
    if document.get("verdict", word) != word:
        yield f"its verdict is {document['verdict']}, and its runs come to {word}"


def _of_run(run: Entry) -> Iterator[str]:
    criteria, message = run["criteria"], run["message"]
    if not criteria:
        if run["verdict"] == "PASS" or not message:
            yield f"{run['verdict']} without any criterion"
        return
    for row in criteria:
        known = BY_NAME.get(row["name"])
        if known is None or row["relation"] != known.relation:
            yield f"{row['name']} {row['relation']} is no criterion"
        elif row["verdict"] not in _possible(row):
            yield f"{row['name']} is called {row['verdict']}, and its interval and limit say {_possible(row)[0]}"
    word = worst(row["verdict"] for row in criteria)
    if run["verdict"] != word:
        yield f"its verdict is {run['verdict']}, and its criteria come to {word}"


def _possible(row: Mapping[str, Any]) -> list[str]:
    """What the numbers of a criterion say, first as they are, then as they may have been before they were rounded."""
    numbers = (row["value"]["value"], *row["value"]["interval"])
    value, low, high = (math.nan if one is None else float(one) for one in numbers)
    limit = math.inf if row["limit"] is None else float(row["limit"])
    step = 0.0 if math.isinf(limit) else abs(limit) * ROUNDED
    return [word_of(Estimate(value, low, high), row["relation"], limit + way) for way in (0.0, step, -step)]
