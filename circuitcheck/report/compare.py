"""What changed since an older report: verdicts, criteria and heads of every candidate and task."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.report.escape import code, prose
from circuitcheck.report.fields import SCHEMA, Entry

WIDTH = 160
SHOWN_HEADS = 8
"""Heads named in one line."""

STATES = {"broken": "NEWLY BROKEN HEADS", "mended": "mended heads", "moved": "importance moved in"}
"""What became of a head, in the words of the printed comparison, most urgent first."""

Head = Mapping[str, Any]


def load_report(path: str | Path) -> dict[str, Any]:
    """Reads a `report.json`.

    Raises:
        ConfigurationError: it is missing, cannot be read, or is no report of this schema.
    """
    file = Path(path)
    if file.is_dir():
        file /= "report.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"there is no report {file}. Give the report.json that `--circuit-report-dir DIR` wrote."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"report {file} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"report {file} is not JSON: {error}. Was it cut off? Write it again.") from error
    if not isinstance(found, dict) or "schema" not in found or not isinstance(found.get("runs"), list):
        raise ConfigurationError(f"{file} is not a report of circuitcheck: it has no schema and no runs.")
    if found["schema"] != SCHEMA:
        raise ConfigurationError(
            f"report {file} has schema {found['schema']}, and this circuitcheck reads {SCHEMA}. Make it again from the "
            "old release with this circuitcheck, or use the one that wrote it."
        )
    missing = sorted({"environment", "complete", "expected_runs"} - set(found))
    if missing or not all(isinstance(run, dict) and run.keys() >= {"candidate", "task"} for run in found["runs"]):
        raise ConfigurationError(f"report {file} is damaged: it lacks {', '.join(missing) or 'names of its runs'}.")
    return found


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What changed from one report to another.

    A number has moved where each report's value lies outside the other's interval; without an interval, where they
    differ. A report of one candidate is compared with another's of one candidate, whatever they are called: releases
    have names of their own.

    Args:
        old: the report of the last release.
        new: the present one.

    Returns:
        What stands under `compare` in `report.json`.
    """
    before, names = _by_case(old, new)
    after = {(run["candidate"], run["task"]): run for run in new["runs"]}
    runs = [_run(names.get(run["candidate"]), before.get(case), run) for case, run in after.items()]
    gone = [run for case, run in before.items() if case not in after]
    return {
        "old": {
            "circuitcheck": old["environment"].get("circuitcheck"),
            "complete": old["complete"],
            "libraries": dict(old["environment"].get("libraries", {})),
        },
        "same_environment": old["environment"] == new["environment"],
        "runs": runs,
        "removed": [{"candidate": run["candidate"], "task": run["task"], "verdict": run["verdict"]} for run in gone],
    }


def render_comparison(comparison: Mapping[str, Any] | None) -> str:
    """The comparison for a terminal; empty if there is none."""
    lines = ["Since the last release", *_lines(comparison, str, str)] if comparison else []
    return "\n".join(
        textwrap.fill(line, WIDTH, subsequent_indent="    ", break_on_hyphens=False)
        for whole in lines
        for line in whole.splitlines()
    )


def comparison_rows(comparison: Mapping[str, Any] | None) -> list[str]:
    """The comparison as items of a Markdown list; none if there is none."""
    return [f"- {line}" for line in _lines(comparison, code, prose)] if comparison else []


def _by_case(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[dict[tuple[str, str], Entry], dict[str, str]]:
    """The old entries under the new names of their candidates, and new name to old."""
    was = list(dict.fromkeys(run["candidate"] for run in old["runs"]))
    now = list(dict.fromkeys(run["candidate"] for run in new["runs"]))
    renamed = {was[0]: now[0]} if len(was) == len(now) == 1 else {}
    runs = {(renamed.get(run["candidate"], run["candidate"]), run["task"]): run for run in old["runs"]}
    return runs, {new_name: old_name for old_name, new_name in renamed.items()} | {
        name: name for name in now if name in was
    }


def _run(old_name: str | None, old: Entry | None, new: Entry) -> Entry:
    return {
        "candidate": new["candidate"],
        "old_candidate": old_name if old else None,
        "task": new["task"],
        "verdict": [old["verdict"] if old else None, new["verdict"]],
        "other": _other(old, new) if old else [],
        "criteria": _criteria(old, new) if old else [],
        "heads": _heads(old, new) if old else [],
    }


def _other(old: Entry, new: Entry) -> list[str]:
    """Which parts of the measurement are not the same, so that the numbers may differ for that alone."""
    before, after = old.get("fingerprints") or {}, new.get("fingerprints") or {}
    shared = [name for name in ("prompts", "spec", "tokenizer") if name in before and name in after]
    return [name for name in shared if before[name] != after[name]]


def _criteria(old: Entry, new: Entry) -> list[Entry]:
    before = {criterion["name"]: criterion for criterion in old["criteria"]}
    after = {criterion["name"]: criterion for criterion in new["criteria"]}
    rows = []
    for name in dict.fromkeys((*after, *before)):
        was, now = before.get(name, {}), after.get(name, {})
        rows.append(
            {
                "name": name,
                "value": [was.get("value"), now.get("value")],
                "interval": [was.get("interval"), now.get("interval")],
                "limit": [was.get("limit"), now.get("limit")],
                "verdict": [was.get("verdict"), now.get("verdict")],
                "moved": _has_moved(was.get("value"), was.get("interval"), now.get("value"), now.get("interval")),
            }
        )
    return rows


def _heads(old: Entry, new: Entry) -> list[Entry]:
    """Heads that are newly broken, mended, or whose importance in the candidate has moved; most moved first."""
    before = {(head["layer"], head["head"]): head for head in old["heads"]}
    rows = []
    for head in new["heads"]:
        was = before.get((head["layer"], head["head"]))
        if was is None:
            continue
        change = _has_moved(
            was["importance_cand"],
            was["importance_cand_interval"],
            head["importance_cand"],
            head["importance_cand_interval"],
        )
        if bool(was["broken"]) == bool(head["broken"]) and not change:
            continue
        state = "moved" if was["broken"] == head["broken"] else "broken" if head["broken"] else "mended"
        rows.append(
            {
                "layer": head["layer"],
                "head": head["head"],
                "state": state,
                "importance": [was["importance_cand"], head["importance_cand"]],
                "drift": [was["drift"], head["drift"]],
                "rank": [was["rank_cand"], head["rank_cand"]],
            }
        )
    return sorted(rows, key=_distance, reverse=True)


def _distance(head: Head) -> float:
    was, now = head["importance"]
    return math.inf if was is None or now is None else abs(now - was)


def _has_moved(was: float | None, around: Any, now: float | None, about: Any) -> bool:
    if was is None or now is None:
        return (was is None) != (now is None)
    return was != now and not _holds(around, now) and not _holds(about, was)


def _holds(interval: Sequence[float | None] | None, value: float) -> bool:
    low, high = interval or (None, None)
    return low is not None and high is not None and low <= value <= high


def _lines(comparison: Mapping[str, Any], name: Any, words: Any) -> Iterable[str]:
    """What changed, flips first; `name` and `words` escape a name and a sentence."""
    runs = comparison["runs"]
    if not comparison["old"]["complete"]:
        yield words("The old report is not complete.")
    if not comparison["same_environment"]:
        yield words("The old report was made with other versions or on another machine.")
    changes = [(run, list(_changes(run))) for run in runs]
    changes.sort(key=lambda row: row[0]["verdict"][0] in (row[0]["verdict"][1], None))
    for run, found in changes:
        renamed = run["old_candidate"] not in (run["candidate"], None)
        was = f" (was {name(run['old_candidate'])})" if renamed else ""
        if found:
            yield f"{name(run['candidate'])} on {name(run['task'])}{was}: " + "; ".join(map(words, found))
    for run in comparison["removed"]:
        yield f"{name(run['candidate'])} on {name(run['task'])}: " + words(f"not in this run (was {run['verdict']})")
    still = sum(not found for _, found in changes)
    if still:
        yield words(f"nothing moved beyond its interval in {still} of {len(runs)} candidates and tasks")


def _changes(run: Entry) -> Iterable[str]:
    was, now = run["verdict"]
    if was is None:
        yield f"new, {now}"
        return
    if was != now:
        yield f"{was} -> {now}"
    if run["other"]:
        yield f"measured with other {' and '.join(run['other'])}"
    for row in run["criteria"]:
        if row["moved"] or row["verdict"][0] != row["verdict"][1] or row["limit"][0] != row["limit"][1]:
            yield _criterion_in_words(row)
    for state, words in STATES.items():
        heads = [head for head in run["heads"] if head["state"] == state]
        if heads:
            yield f"{words} {_listed(heads)}"


def _criterion_in_words(row: Entry) -> str:
    flip = f" ({row['verdict'][0] or 'not measured'} -> {row['verdict'][1] or 'not measured'})"
    limit = f", limit {short(row['limit'][0])} -> {short(row['limit'][1])}"
    return (
        f"{row['name']} {short(row['value'][0])} -> {short(row['value'][1])}"
        + (flip if row["verdict"][0] != row["verdict"][1] else "")
        + (limit if row["limit"][0] != row["limit"][1] and None not in row["limit"] else "")
    )


def _listed(heads: Sequence[Head]) -> str:
    shown = ", ".join(
        f"{head['layer']}.{head['head']} ({short(head['importance'][0])} -> {short(head['importance'][1])})"
        for head in heads[:SHOWN_HEADS]
    )
    return shown + (f" and {len(heads) - SHOWN_HEADS} more" if len(heads) > SHOWN_HEADS else "")


def short(value: float | None) -> str:
    """Three digits that matter, or `-` where a number is undefined."""
    return "-" if value is None else f"{value:.3g}"
