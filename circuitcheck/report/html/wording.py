"""What the page says: names of the measures, and the sentence on what broke. The words are the README's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from circuitcheck.report.html.numbers import interval, short

MARKS = {"PASS": "✓", "FAIL": "✕", "INCONCLUSIVE": "?"}
"""Verdict to the sign that stands beside its word, so that colour is never alone."""

MEASURES = {
    "behaviour_kept": ("Behaviour kept", "share of the reference's solved prompts that the candidate solves too"),
    "metric_change": ("Metric change", "relative change of the mean logit difference between answer and foil"),
    "drift_median": ("Drift, median", "how far the z of the median head moved, relative to its norm"),
    "drift_largest": ("Drift, largest", "how far the z of the head that moved most did, relative to its norm"),
    "ranking_agreement": ("Ranking", "rank-biased overlap of the heads by importance; 1 is the same order"),
    "profile_distance": (
        "Profile distance",
        "largest change of a head's importance, relative to the largest importance",
    ),
    "unrepaired": ("Unrepaired", "what stays of the damage when every head gets the reference's z"),
    "recovery": ("Recovery", "share of the damage that giving every head the reference's z undoes"),
}
"""Criterion to its name and one line on what it is."""

DIAGNOSES = {
    "no damage": "the logit difference is not damaged",
    "unresolved": "too few prompts to tell whether there is damage",
    "localized": "repairing few heads gives back most of the damage",
    "distributed": "only repairing many heads gives back most of the damage",
    "collapse": "not even repairing all heads gives back the damage, so its cause lies elsewhere",
}
"""Diagnosis of repair to what it means."""

IN_A_SENTENCE = {
    "profile_distance": "the profile distance",
    "behaviour_kept": "the share of behaviour kept",
    "metric_change": "the change of the metric",
    "ranking_agreement": "the agreement of the ranking",
    "recovery": "recovery by repair",
    "unrepaired": "the unrepaired share",
    "drift_largest": "the largest drift",
    "drift_median": "the median drift",
}
"""Criterion to what the sentence on what broke calls it, the most telling first."""

RELATIONS = {"<=": "at most", ">=": "at least"}

NOISE = {
    "drift": "drift, relative",
    "metric_change": "metric change, relative",
    "profile_distance": "profile distance, relative to the largest importance",
    "ranking_change": "ranking change, 1 minus the overlap",
}
"""Measure of the noise floor to what it is called."""

NAMED_HEADS = 3
"""The most heads that the sentence on what broke names."""


def label(measure: str) -> str:
    """A criterion's name for people."""
    return MEASURES[measure][0] if measure in MEASURES else measure.replace("_", " ")


def explanation(measure: str) -> str:
    """One line on what a criterion is; empty for one that is not known."""
    return MEASURES[measure][1] if measure in MEASURES else ""


def what_broke(run: Mapping[str, Any]) -> str:
    """One sentence on a run that did not pass: which criteria, which heads, and what repair says."""
    criteria = [criterion for criterion in run.get("criteria", ()) if criterion["verdict"] == run["verdict"]]
    criteria.sort(key=_telling)
    if not criteria:
        return _sentence(run.get("message") or "nothing was measured, and no reason was recorded")
    shown = criteria[:2]
    facts = [" and ".join(_criterion(criterion) for criterion in shown)]
    if len(criteria) > len(shown):
        facts.append(f"{run['verdict']} in {len(criteria)} of {len(run['criteria'])} measures")
    heads = [head for head in run.get("heads", ()) if head.get("broken")]
    if heads:
        heads.sort(key=lambda head: -abs(head.get("importance_change") or 0.0))
        facts.append(f"the importance of {_heads(heads)} broke")
    diagnosis = (run.get("repair") or {}).get("diagnosis")
    if diagnosis:
        facts.append(f"{diagnosis}: {DIAGNOSES.get(diagnosis, '')}".rstrip(": "))
    return _sentence("; ".join(facts))


def _criterion(criterion: Mapping[str, Any]) -> str:
    name = IN_A_SENTENCE.get(criterion["name"], label(criterion["name"]))
    limit = f"must be {RELATIONS.get(criterion['relation'], criterion['relation'])} {short(criterion['limit'])}"
    if criterion["value"] is None:
        return f"{name} could not be measured ({limit})"
    if criterion["verdict"] == "INCONCLUSIVE":
        shown = f"{short(criterion['value'])} {interval(criterion['interval'])}"
        return f"{name} cannot be told from its limit: {shown}, {limit}"
    return f"{name} is {short(criterion['value'])} ({limit})"


def _telling(criterion: Mapping[str, Any]) -> int:
    names = list(IN_A_SENTENCE)
    return names.index(criterion["name"]) if criterion["name"] in names else len(names)


def _heads(heads: Sequence[Mapping[str, Any]]) -> str:
    named = [f"{head['layer']}.{head['head']}" for head in heads[:NAMED_HEADS]]
    return f"head{'s' if len(heads) > 1 else ''} {', '.join(named)}{_more(len(heads) - NAMED_HEADS)}"


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
