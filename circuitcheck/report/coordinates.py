"""In which coordinates a candidate keeps its units, in sentences that terminal, Markdown and page share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from circuitcheck.report.fields import Entry
from circuitcheck.report.numbers import brief, share
from circuitcheck.report.rows import LISTED, drift_limit, of_whom
from circuitcheck.report.words import said_of

UNREAD = 0.25
"""Share of a write beyond which it is said to lie outside of what the reference's coordinates can say; rounding the
embedded model's weights to 8 bits puts 0.007 there, and to 4 bits 0.10."""

SOURCES = {
    "unembedding": "tokens of the unembedding",
    "embedding": "tokens of the token embedding",
    "sketch": "random directions",
}
"""What writes are read through, to what is counted of it."""

UNTOLD = {
    "embedding": "This model has no unembedding that could be found: what units write is read through its token "
    "embedding, and not in logits.",
    "sketch": "This model has neither an unembedding nor a token embedding that could be found: what units write is "
    "read in random directions, and a rotated residual stream cannot be told from damage.",
}
"""What cannot be told of a candidate that is not read in logits."""


def how_read(run: Mapping[str, Any]) -> str:
    """How units of the candidate are held against the reference's; empty where nothing was measured."""
    basis = run.get("basis")
    if not basis:
        return ""
    source = SOURCES.get(basis["source"], basis["source"])
    return f"Read in the reference's basis, at {basis['tokens']:,} {source}."


def coordinates(run: Mapping[str, Any]) -> list[str]:
    """What a reader must know about the basis and the numbers of units; nothing where they are the reference's."""
    basis = run.get("basis")
    if not basis:
        return []
    kind, found = run["unit"], []
    if basis["changed"]:
        found.append(_changed(run, basis))
    if basis["renumbered"]:
        found.append(_renumbered(kind, basis["renumbered"]))
    if basis["source"] in UNTOLD:
        found.append(said_of(kind, UNTOLD[basis["source"]]))
    if basis["unread"] is None or basis["unread"] > UNREAD:
        part = "an unknown share" if basis["unread"] is None else f"up to {share(basis['unread'])}"
        found.append(
            said_of(
                kind,
                f"Of what a unit writes, {part} lies outside of what the reference's coordinates can say; fragility "
                "and the first-order damage leave that part out, drift does not.",
            )
        )
    return found


def kept_otherwise(runs: Sequence[Entry]) -> list[tuple[str, list[Entry]]]:
    """Each of these sentences with the runs that it is of; none where it is of all of them."""
    return of_whom([(text, run) for run in runs for text in coordinates(run)], len(runs))


def _changed(run: Mapping[str, Any], basis: Mapping[str, Any]) -> str:
    """A change of basis where what is written is as it was, and else how far that has moved."""
    count, of, most = len(basis["changed"]), len(run["units"]), drift_limit(run)
    is_one = count == 1
    opening = said_of(
        run["unit"],
        f"{count} of {of} unit{'' if of == 1 else 's'} {'is' if is_one else 'are'} kept in other coordinates "
        f"(z moved {_by_up_to(basis['largest_drift_z'])})",
    )
    drift = basis["largest_drift"]
    if most is not None and drift is not None and drift <= most:
        same = "writes what the reference's does" if is_one else "write what the reference's do"
        return (
            f"{opening} and {same} (drift up to {brief(drift)}, at most {brief(most)} allowed): a change of basis, not "
            "of what is computed."
        )
    allowed = "" if most is None else f", where at most {brief(most)} is allowed: not a change of basis alone"
    return f"{opening}, and what {'it writes' if is_one else 'they write'} moved {_by_up_to(drift)}{allowed}."


def _by_up_to(value: float | None) -> str:
    return "without bound" if value is None else f"by up to {brief(value)}"


def _renumbered(kind: str, others: Mapping[str, str]) -> str:
    parts = [f"{unit} is {other}" for unit, other in others.items()]
    parts[0] += " here"
    left = len(parts) - LISTED
    if left > 0:
        parts = [*parts[:LISTED], f"so on for {left} more"]
    listed = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    return f"{said_of(kind, 'Units are numbered otherwise: ')}{listed}; this report uses the reference's numbers."
