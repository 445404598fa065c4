"""What the report calls things, in every medium."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from circuitcheck.report.numbers import interval, short
from circuitcheck.verdict.criteria import BY_NAME

DIAGNOSES = {
    "no damage": "the logit difference is not damaged",
    "damage": "the logit difference is damaged; where was not asked for",
    "unresolved": "too few prompts to tell whether there is damage",
    "localized": "repairing few units gives back most of the damage",
    "distributed": "only repairing many units gives back most of the damage",
    "elsewhere": "the damage is not in the units that were measured, of the many that there are",
    "collapse": "not even repairing all units gives back the damage, so its cause lies elsewhere",
}
"""Diagnosis of repair to what it means."""

RELATIONS = {"<=": "at most", ">=": "at least"}

NOISE = {
    "drift": "drift, relative",
    "metric_change": "metric change, relative",
    "profile_distance": "profile distance, relative to the largest importance",
    "ranking_change": "ranking change, 1 minus the overlap",
}
"""Measure of the noise floor to what it is called."""

MOST_TELLING = ("profile_distance", "behaviour_kept", "metric_change", "ranking_agreement", "recovery", "unrepaired")
"""Criteria in the order in which the sentence on what broke names them; all others come after."""

NAMED = 3
"""The most units that the sentence on what broke names."""

HEAD = "head"
"""The kind of unit that names of runs do not mention."""

_UNIT = re.compile(r"\bunit(s?)\b", re.IGNORECASE)


def said_of(kinds: str | Iterable[str], text: str) -> str:
    """A text in which `unit` and `units` are called what they are: `head` and `heads`, if all kinds are heads."""
    found = {kinds} if isinstance(kinds, str) else set(kinds)
    noun = found.pop() if len(found) == 1 else "unit"

    def called(match: re.Match[str]) -> str:
        word = noun + match[1].lower()
        return word.upper() if match[0].isupper() else word.capitalize() if match[0][0].isupper() else word

    return _UNIT.sub(called, text)


def task_of(run: Mapping[str, Any]) -> str:
    """A run's task, and the kind of its units where they are not heads."""
    return str(run["task"]) if run["unit"] == HEAD else f"{run['task']} ({run['unit']}s)"


def case_of(run: Mapping[str, Any]) -> str:
    """What pytest calls a run."""
    return f"{run['candidate']}-{run['task']}" + ("" if run["unit"] == HEAD else f"-{run['unit']}")


def kinds_of(runs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Kinds of units, in order; `head` where there are no runs."""
    return list(dict.fromkeys(run["unit"] for run in runs)) or [HEAD]


def loosened(run: Mapping[str, Any]) -> str:
    """Which limits of a run let in more than the defaults do, in one sentence; empty where none does."""
    rows = run.get("loosened") or ()
    parts = [
        f"{row['name']} {row['relation']} {short(row['limit'])} instead of {short(row['default'])}" for row in rows
    ]
    return f"Loosened limits: {', '.join(parts)}." if parts else ""


def label(name: str) -> str:
    """A criterion's name for people."""
    return BY_NAME[name].label if name in BY_NAME else name.replace("_", " ")


def explanation(name: str, kind: str = "unit") -> str:
    """One line on what a criterion is; empty for one that is not known."""
    return said_of(kind, BY_NAME[name].explanation) if name in BY_NAME else ""


def what_broke(run: Mapping[str, Any]) -> str:
    """One sentence on a run that did not pass: which criteria, which units, and what repair says."""
    criteria = [criterion for criterion in run.get("criteria", ()) if criterion["verdict"] == run["verdict"]]
    criteria.sort(key=_telling)
    if not criteria:
        return _sentence(run.get("message") or "nothing was measured, and no reason was recorded")
    shown = criteria[:2]
    facts = [" and ".join(_missed(criterion) for criterion in shown)]
    if len(criteria) > len(shown):
        facts.append(f"{run['verdict']} in {len(criteria)} of {len(run['criteria'])} measures")
    broken = set(run.get("broken", ()))
    units = [unit for unit in run.get("units", ()) if unit["unit"] in broken]
    if units:
        units.sort(key=lambda unit: -abs(unit["importance_change"]["value"] or 0.0))
        facts.append(f"the importance of {_named([unit['unit'] for unit in units])} broke")
    diagnosis = (run.get("repair") or {}).get("diagnosis")
    if diagnosis:
        facts.append(f"{diagnosis}: {DIAGNOSES.get(diagnosis, '')}".rstrip(": "))
    culprits = (run.get("placing") or {}).get("culprits")
    if culprits:
        more = f" and {len(culprits) - NAMED} more" if len(culprits) > NAMED else ""
        facts.append(f"by module, the damage comes from {', '.join(culprits[:NAMED])}{more}")
    return _sentence(said_of(run.get("unit", "unit"), "; ".join(facts)))


def _missed(criterion: Mapping[str, Any]) -> str:
    name, value = criterion["name"], criterion["value"]
    phrase = BY_NAME[name].phrase if name in BY_NAME else label(name)
    limit = f"must be {RELATIONS.get(criterion['relation'], criterion['relation'])} {short(criterion['limit'])}"
    if value["value"] is None:
        return f"{phrase} could not be measured ({limit})"
    if criterion["verdict"] == "INCONCLUSIVE":
        shown = f"{short(value['value'])} {interval(value['interval'])}"
        return f"{phrase} cannot be told from its limit: {shown}, {limit}"
    return f"{phrase} is {short(value['value'])} ({limit})"


def _telling(criterion: Mapping[str, Any]) -> int:
    name = criterion["name"]
    return MOST_TELLING.index(name) if name in MOST_TELLING else len(MOST_TELLING)


def _named(units: list[str]) -> str:
    more = f" and {len(units) - NAMED} more" if len(units) > NAMED else ""
    return f"unit{'s' if len(units) > 1 else ''} {', '.join(units[:NAMED])}{more}"


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
