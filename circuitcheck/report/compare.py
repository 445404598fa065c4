"""What changed since an older report: verdicts, criteria and units of every candidate and task."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from circuitcheck.core.bounded import read_bounded
from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.people import plain
from circuitcheck.core.phrases import first_lines, listed
from circuitcheck.core.strict_json import strict_json
from circuitcheck.report.contradictions import contradictions
from circuitcheck.report.escape import code, prose
from circuitcheck.report.fields import SCHEMA, Entry
from circuitcheck.report.numbers import brief
from circuitcheck.report.received import require_report
from circuitcheck.report.words import said_of, task_of

MOST_BYTES = 2**28
"""Of a report that is read."""

LISTED = 8
"""Units named in one line."""

STATES = {"broken": "NEWLY BROKEN UNITS", "mended": "mended units", "moved": "importance moved in"}
"""What became of a unit, in the words of the printed comparison, most urgent first."""

NAMES = {"candidate", "task", "unit"}
"""What tells the runs of a report apart."""

Case = tuple[str, str, str]
Escape = Callable[[str], str]


def load_report(path: str | Path) -> dict[str, Any]:
    """Reads a `report.json`.

    Raises:
        ConfigurationError: it is missing, cannot be read, is no report of this schema, or contradicts itself.
    """
    file = Path(path)
    if file.is_dir():
        file /= "report.json"
    try:
        found = strict_json(read_bounded(file, MOST_BYTES))
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"there is no report {file}. Give the report.json that `--circuit-report-dir DIR` wrote."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"report {file} cannot be read: {error}") from error
    except ValueError as error:
        raise ConfigurationError(f"report {file} is not JSON: {error}. Was it cut off? Write it again.") from error
    if not isinstance(found, dict) or "schema" not in found or not isinstance(found.get("runs"), list):
        raise ConfigurationError(f"{file} is not a report of circuitcheck: it has no schema and no runs.")
    if found["schema"] != SCHEMA:
        raise ConfigurationError(
            f"report {file} has schema {str(found['schema'])[:80]}, and this circuitcheck reads {SCHEMA}. Make it "
            "again from the old release with this circuitcheck, or use the one that wrote it."
        )
    missing = sorted({"environment", "complete", "expected_runs"} - set(found))
    if missing or not all(isinstance(run, dict) and run.keys() >= NAMES for run in found["runs"]):
        raise ConfigurationError(f"report {file} is damaged: it lacks {', '.join(missing) or 'names of its runs'}.")
    try:
        require_report(found)
        wrong = list(contradictions(found))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"report {file} is damaged: {type(error).__name__}: {first_lines(error)}") from error
    if wrong:
        raise ConfigurationError(f"report {file} contradicts itself: {listed(wrong, 3, '; ')}. Gate the release again.")
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
    after = {(run["candidate"], run["task"], run["unit"]): run for run in new["runs"]}
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
        "removed": [{key: run[key] for key in ("candidate", "task", "unit", "verdict")} for run in gone],
    }


def comparison_lines(comparison: Mapping[str, Any] | None) -> list[str]:
    """The comparison for a terminal; nothing if there is none."""
    return ["Since the last release", *_lines(comparison, plain, plain)] if comparison else []


def comparison_rows(comparison: Mapping[str, Any] | None) -> list[str]:
    """The comparison as items of a Markdown list; none if there is none."""
    return [f"- {line}" for line in _lines(comparison, code, prose)] if comparison else []


def _by_case(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[dict[Case, Entry], dict[str, str]]:
    """The old entries under the new names of their candidates, and new name to old."""
    was = list(dict.fromkeys(run["candidate"] for run in old["runs"]))
    now = list(dict.fromkeys(run["candidate"] for run in new["runs"]))
    renamed = {was[0]: now[0]} if len(was) == len(now) == 1 else {}
    runs = {(renamed.get(run["candidate"], run["candidate"]), run["task"], run["unit"]): run for run in old["runs"]}
    return runs, {new_name: old_name for old_name, new_name in renamed.items()} | {
        name: name for name in now if name in was
    }


def _run(old_name: str | None, old: Entry | None, new: Entry) -> Entry:
    return {
        "candidate": new["candidate"],
        "old_candidate": old_name if old else None,
        "task": new["task"],
        "unit": new["unit"],
        "verdict": [old["verdict"] if old else None, new["verdict"]],
        "other": _other(old, new) if old else [],
        "criteria": _criteria(old, new) if old else [],
        "units": _units(old, new) if old else [],
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
        row = {key: [was.get(key), now.get(key)] for key in ("value", "limit", "verdict")}
        rows.append({"name": name, **row, "moved": _has_moved(*row["value"])})
    return rows


def _units(old: Entry, new: Entry) -> list[Entry]:
    """Units that are newly broken, mended, or whose importance in the candidate has moved; most moved first."""
    before = {unit["unit"]: unit for unit in old["units"]}
    rows = []
    for now in new["units"]:
        name = now["unit"]
        was = before.get(name)
        if was is None:
            continue
        was_broken, is_broken = name in old["broken"], name in new["broken"]
        importance = [was["importance_cand"], now["importance_cand"]]
        if was_broken == is_broken and not _has_moved(*importance):
            continue
        rows.append(
            {
                "unit": name,
                "state": "moved" if was_broken == is_broken else "broken" if is_broken else "mended",
                "importance": importance,
                "drift": [was["drift"], now["drift"]],
                "rank": [was["rank_cand"], now["rank_cand"]],
            }
        )
    return sorted(rows, key=_distance, reverse=True)


def _distance(unit: Entry) -> float:
    was, now = (estimate["value"] for estimate in unit["importance"])
    return math.inf if was is None or now is None else abs(now - was)


def _has_moved(old: Entry | None, new: Entry | None) -> bool:
    was, now = _value(old), _value(new)
    if old is None or new is None or was is None or now is None:
        return (was is None) != (now is None)
    return was != now and not _holds(old["interval"], now) and not _holds(new["interval"], was)


def _value(estimate: Entry | None) -> float | None:
    return None if estimate is None else estimate["value"]


def _holds(interval: Sequence[float | None], value: float) -> bool:
    low, high = interval
    return low is not None and high is not None and low <= value <= high


def _lines(comparison: Mapping[str, Any], name: Escape, words: Escape) -> Iterable[str]:
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
            yield f"{name(run['candidate'])} on {name(task_of(run))}{was}: " + "; ".join(map(words, found))
    for run in comparison["removed"]:
        yield f"{name(run['candidate'])} on {name(task_of(run))}: " + words(f"not in this run (was {run['verdict']})")
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
        units = [unit for unit in run["units"] if unit["state"] == state]
        if units:
            yield f"{said_of(run['unit'], words)} {_listed(units)}"


def _criterion_in_words(row: Entry) -> str:
    flip = f" ({row['verdict'][0] or 'not measured'} -> {row['verdict'][1] or 'not measured'})"
    limit = f", limit {brief(row['limit'][0])} -> {brief(row['limit'][1])}"
    return (
        f"{row['name']} {_pair(row['value'])}"
        + (flip if row["verdict"][0] != row["verdict"][1] else "")
        + (limit if row["limit"][0] != row["limit"][1] and None not in row["limit"] else "")
    )


def _listed(units: Sequence[Entry]) -> str:
    shown = ", ".join(f"{unit['unit']} ({_pair(unit['importance'])})" for unit in units[:LISTED])
    return shown + (f" and {len(units) - LISTED} more" if len(units) > LISTED else "")


def _pair(values: Sequence[Entry | None]) -> str:
    return " -> ".join(brief(_value(value)) for value in values)
