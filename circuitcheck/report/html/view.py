"""The report in the order of the page: candidates, their runs, and what the runs of one candidate share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from circuitcheck.report.charts.drawings import drift_places
from circuitcheck.report.charts.inline import bound_chart, drift_chart, repair_chart
from circuitcheck.report.html.columns import columns
from circuitcheck.report.html.wording import what_broke

ORDER = ("FAIL", "INCONCLUSIVE", "PASS")
"""The verdict of several runs is the first of these that one of them has."""


def view(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates read besides the report itself.

    `grid` holds, for each candidate, its run of each task or None; `candidates` the same runs, with what they share.
    """
    runs = [_run(run, place) for place, run in enumerate(document["runs"])]
    tasks = list(dict.fromkeys(run["task"] for run in runs))
    names = list(dict.fromkeys(run["candidate"] for run in runs))
    candidates = [
        _candidate(name, place, [run for run in runs if run["candidate"] == name]) for place, name in enumerate(names)
    ]
    words = Counter(run["verdict"] for run in runs)
    first = next((run for word in ORDER for run in runs if run["verdict"] == word), None)
    if first is not None:
        first["open"] = True
    return {
        "models": list(dict.fromkeys(run["model"] for run in runs)),
        "tasks": tasks,
        "candidates": candidates,
        "grid": [(one, [_of_task(one["runs"], task) for task in tasks]) for one in candidates],
        "runs": runs,
        "verdict": next((word for word in ORDER if words[word]), None),
        "counts": {word: words[word] for word in ORDER if words[word]},
        "broken": [run for run in runs if run["verdict"] != "PASS"],
    }


def _run(run: Mapping[str, Any], place: int) -> dict[str, Any]:
    key = f"run-{place}"
    return {
        **run,
        "key": key,
        "open": False,
        "sentence": "" if run["verdict"] == "PASS" else what_broke(run),
        "columns": columns(run),
        "repair_chart": repair_chart(run, f"{key}-repair"),
        "drift_chart": drift_chart(run, f"{key}-drift"),
        "drift_places": drift_places(run),
        "bound_chart": bound_chart(run, f"{key}-bound"),
    }


def _candidate(name: str, place: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": name,
        "key": f"candidate-{place}",
        "runs": runs,
        "precision": next((run["precision"] for run in runs if run.get("precision")), None),
        "census": next((run["census"] for run in runs if run.get("census")), None),
        "batch_size": next((run["batch_size"] for run in runs if run.get("batch_size")), None),
        "verdict": next(word for word in ORDER if any(run["verdict"] == word for run in runs)),
        "notes": _notes(runs),
    }


def _notes(runs: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Each note with the tasks that it is of."""
    notes: dict[str, list[str]] = {}
    for run in runs:
        for note in run.get("notes", ()):
            notes.setdefault(note, []).append(run["task"])
    return [(note, [] if len(tasks) == len(runs) else tasks) for note, tasks in notes.items()]


def _of_task(runs: list[dict[str, Any]], task: str) -> dict[str, Any] | None:
    return next((run for run in runs if run["task"] == task), None)
