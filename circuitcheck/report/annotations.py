"""Failures as workflow commands, which GitHub shows at the top of a run and in the pull request."""

from collections.abc import Mapping
from typing import Any

from circuitcheck.report.escape import annotation_property, annotation_text
from circuitcheck.report.fields import Entry
from circuitcheck.report.words import said_of, task_of

MOST = 10
"""GitHub shows ten errors of a step and drops all others silently."""

LONGEST = 3000
"""Characters of one message; GitHub cuts at 4,096 bytes."""


def annotations(document: Mapping[str, Any], *, inconclusive_fails: bool = False) -> list[str]:
    """One `::error` line for each candidate and task that fails; if there are too many, the tenth counts the rest.

    Args:
        document: the report.
        inconclusive_fails: whether what could not be decided fails this gate too.
    """
    words = ("FAIL", "INCONCLUSIVE") if inconclusive_fails else ("FAIL",)
    failed = sorted((run for run in document["runs"] if run["verdict"] in words), key=lambda run: run["verdict"])
    shown = failed if len(failed) <= MOST else failed[: MOST - 1]
    lines = [_line(f"{run['verdict']}: {run['candidate']} on {task_of(run)}", _message(run)) for run in shown]
    if len(failed) > len(shown):
        more = len(failed) - len(shown)
        lines.append(_line("circuitcheck", f"{more} more did not pass; the report names them all."))
    return lines


def _line(title: str, message: str) -> str:
    return f"::error title={annotation_property(title)}::{annotation_text(message[:LONGEST])}"


def _message(run: Entry) -> str:
    messages = [run["message"]]
    messages += [criterion["message"] for criterion in run["criteria"] if criterion["verdict"] == run["verdict"]]
    broken = run["broken"]
    if broken:
        title = said_of(run["unit"], "Broken units")
        messages.append(f"{title}: {', '.join(broken[:MOST])}{' and more' if len(broken) > MOST else ''}.")
    return "\n".join(filter(None, messages)) or "The verdict is not PASS."
