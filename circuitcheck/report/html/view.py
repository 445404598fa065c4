"""The report in the order of the page: candidates, their runs, and what the runs of one candidate share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from circuitcheck.report.charts.drawings import drift_places
from circuitcheck.report.charts.inline import (
    bound_chart,
    drift_chart,
    feature_charts,
    placing_chart,
    population_charts,
    repair_chart,
)
from circuitcheck.report.coordinates import coordinates, how_read
from circuitcheck.report.damage_places import module_rows, placed
from circuitcheck.report.feature_tables import HEADINGS, feature_rows
from circuitcheck.report.html.columns import columns
from circuitcheck.report.population_rows import chosen
from circuitcheck.report.routing_rows import HEADINGS as ROUTING_HEADINGS
from circuitcheck.report.routing_rows import routing_rows
from circuitcheck.report.rows import AUDITED, INTEGRATED, eased, noted, outcome, verdict_grid
from circuitcheck.report.words import kinds_of, said_of, task_of, what_broke

OPENED = ("FAIL", "INCONCLUSIVE", "PASS")
"""The first run with the first of these verdicts is open from the start."""


def view(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates read besides the report itself.

    `grid` holds, for each candidate, its run of each task or None; `candidates` the same runs, with what they share.
    """
    runs = [_run(run, place) for place, run in enumerate(document["runs"])]
    names = list(dict.fromkeys(run["candidate"] for run in runs))
    candidates = [
        _candidate(name, place, [run for run in runs if run["candidate"] == name]) for place, name in enumerate(names)
    ]
    tasks, rows = verdict_grid(runs)
    for first in sorted(runs, key=lambda run: OPENED.index(run["verdict"]))[:1]:
        first["open"] = True
    return {
        "models": list(dict.fromkeys(run["model"] for run in runs)),
        "tasks": tasks,
        "candidates": candidates,
        "grid": [(one, found) for one, (_, found) in zip(candidates, rows, strict=True)],
        "runs": runs,
        "loosened": eased(runs),
        "outcome": outcome(document),
        "broken": [run for run in runs if run["verdict"] != "PASS"],
        "kinds": kinds_of(runs),
        "noun": said_of(kinds_of(runs), "unit"),
        "nouns": said_of(kinds_of(runs), "units"),
    }


def _run(run: Mapping[str, Any], place: int) -> dict[str, Any]:
    key = f"run-{place}"
    if run.get("population"):  # what some of many units explain is no bound on the damage
        run = {**run, "bound": None}
    return {
        **run,
        "key": key,
        "open": False,
        "task_name": task_of(run),
        "noun": said_of(run["unit"], "unit"),
        "nouns": said_of(run["unit"], "units"),
        "sentence": "" if run["verdict"] == "PASS" else what_broke(run),
        "columns": columns(run),
        "how_read": how_read(run),
        "coordinates": coordinates(run),
        "audit": _audit(run.get("bound") or {}),
        "chosen": chosen(run),
        "placed": placed(run),
        "module_rows": module_rows(run),
        "placing_chart": placing_chart(run, f"{key}-placing"),
        "population_charts": population_charts(run, f"{key}-all"),
        "feature_charts": feature_charts(run, f"{key}-features"),
        "feature_rows": feature_rows(run),
        "feature_headings": HEADINGS,
        "routing_rows": routing_rows(run),
        "routing_headings": ROUTING_HEADINGS,
        "reconstructed": _reconstructed(run.get("features") or {}),
        "repair_chart": repair_chart(run, f"{key}-repair"),
        "drift_chart": drift_chart(run, f"{key}-drift"),
        "drift_places": drift_places(run),
        "bound_chart": bound_chart(run, f"{key}-bound"),
    }


def _audit(bound: Mapping[str, Any]) -> list[tuple[str, str, float | None]]:
    """Key, words and value of every quantity of the bound audit."""
    second = bound.get("integrated") or {}
    return [(key, words, bound.get(key)) for key, _, words in AUDITED] + [
        (key, words, second.get(key)) for key, _, words in INTEGRATED if second
    ]


def _candidate(name: str, place: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    shared = {
        key: next((run[key] for run in runs if run.get(key)), None) for key in ("precision", "census", "batch_size")
    }
    return {
        **shared,
        "name": name,
        "key": f"candidate-{place}",
        "runs": runs,
        "notes": [(note, [run["task_name"] for run in of]) for note, of in noted(runs)],
    }


def _reconstructed(features: Mapping[str, Any]) -> list[tuple[str, str, int, int, float, float]]:
    """Each dictionary: group, architecture, latents, active ones, and what it explains of reference and candidate."""
    return [
        (one["group"], one["architecture"], one["latents"], one["active"], one["explained"], own)
        for one, own in zip(features.get("dictionaries", ()), features.get("explained", ()), strict=True)
    ]
