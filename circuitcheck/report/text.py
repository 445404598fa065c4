"""The fragility tables for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from circuitcheck.gate.judge import Verdict
from circuitcheck.report.document import run_entry
from circuitcheck.report.fields import CRITERIA, Entry

WIDTH = 160
"""No line is longer."""

FRAGILE_HEADS = 8
"""Heads shown per candidate, unless more of them broke."""

BROKEN_HEADS = 24
"""The most heads shown per candidate."""

NAME_WIDTHS = (16, 14)
"""Widths at which names of candidates and tasks are broken."""

LIBRARIES = {
    "torchao": "torchao",
    "compressed-tensors": "compressed_tensors",
    "bitsandbytes": "bitsandbytes",
}
"""Library to the key of what to write for it."""

MARKS = {"FAIL": "!", "INCONCLUSIVE": "?", "PASS": ""}

LEGEND = (
    "! beyond its limit, ? its interval contains the limit, - undefined. Ranking is rank-biased overlap, beside it the "
    "reference's own split-half agreement. Importance is the logit difference lost by ablation, with its 95 % "
    "interval; fragility is mean |gradient x drift|, repair what this head's reference z gives back, all in logits. "
    "A head marked ! broke: its importance has moved beyond the limit on profile distance, with the whole interval "
    "that holds for all heads at once. A drift marked ! is beyond the limit on the largest drift; its cause may lie in "
    "an earlier layer. A head without a rank was not swept."
)

ASSOCIATIONS = (
    "Important and fragile? Rank correlation of importance with drift: over all heads; within layers with its interval "
    "and p"
)

AUDIT = "First-order damage, means over prompts in logits: what gradient times drift says of |m_ref - m_cand|"
NO_REFERENCE = "(A second opinion, integrated gradients, needs the reference in the same run: --circuit-against-base.)"

Row = tuple[Entry, Mapping[str, Any]]
"""One head of one entry."""


def render(verdicts: Iterable[Verdict]) -> str:
    """The summary and the fragility tables of some verdicts, as `pytest --circuit-report` prints them."""
    return render_entries([run_entry(verdict) for verdict in verdicts])


def render_entries(entries: list[Entry]) -> str:
    """The same, of entries of a report."""
    parts = [_summary(entries), _wrapped(_moved_heads(entries))]
    for candidate in dict.fromkeys(entry["candidate"] for entry in entries):
        parts.append(_fragile_heads(candidate, [entry for entry in entries if entry["candidate"] == candidate]))
    parts += [_associations(entries), _audits(entries), _wrapped(_searches(entries))]
    parts += [_wrapped(_messages(entries)), _wrapped(_notes(entries)), _wrapped([LEGEND])]
    return "\n\n".join(part for part in parts if part)


def _summary(entries: list[Entry]) -> str:
    rows = [
        [
            *(textwrap.fill(entry[key], width) for key, width in zip(("candidate", "task"), NAME_WIDTHS, strict=True)),
            *_cells(entry),
            _diagnosis(entry),
            entry["verdict"],
        ]
        for entry in entries
    ]
    return _table(rows, ["candidate", "task", *CRITERIA.values(), "diagnosis", "verdict"])


def _cells(entry: Entry) -> list[str]:
    criteria = {criterion["name"]: criterion for criterion in entry["criteria"]}
    cells = []
    for name in CRITERIA:
        criterion = criteria.get(name)
        if criterion is None:
            cells.append("-")
            continue
        shown = _short(criterion["value"]) + MARKS[criterion["verdict"]]
        if name == "ranking_agreement" and entry["ranking"]["ceiling"] is not None:
            shown += f" ({_short(entry['ranking']['ceiling'])})"
        cells.append(shown)
    return cells


def _diagnosis(entry: Entry) -> str:
    return entry["repair"]["diagnosis"] if entry["repair"] else "-"


def _moved_heads(entries: list[Entry]) -> list[str]:
    """Which heads are beyond a limit, one line a candidate and task."""
    lines = []
    for entry in entries:
        broken = sorted((head for head in entry["heads"] if head["broken"]), key=_importance_moved)
        drifted = [head for head in entry["heads"] if _drifted(entry, head)]
        if broken or drifted:
            facts = [_broken_in_words(broken), *([_drifted_in_words(drifted)] if drifted else [])]
            lines.append(f"{entry['candidate']}-{entry['task']}: {'; '.join(facts)}")
    return lines


def _broken_in_words(heads: Sequence[Mapping[str, Any]]) -> str:
    listed = ", ".join(
        f"{_name(head)} ({_short(head['importance_ref'])} -> {_short(head['importance_cand'])})"
        for head in heads[:FRAGILE_HEADS]
    )
    more = f" and {len(heads) - FRAGILE_HEADS} more" if len(heads) > FRAGILE_HEADS else ""
    return f"BROKEN HEADS {listed}{more}" if heads else "no head's importance broke"


def _drifted_in_words(heads: Sequence[Mapping[str, Any]]) -> str:
    worst = min(heads, key=_drift)
    return (
        f"drift beyond its limit in {len(heads)} head(s), first in layer {heads[0]['layer']}, "
        f"most in {_name(worst)} ({_short(worst['drift'])})"
    )


def _fragile_heads(candidate: str, entries: list[Entry]) -> str:
    heads = [(entry, head) for entry in entries for head in entry["heads"]]
    if not heads:
        return ""
    heads.sort(key=_most_telling)
    broken = sum(head["broken"] for _, head in heads)
    if not broken and all(_is_still(*row) for row in heads):
        return f"Most fragile heads of {candidate}: none, no z has moved beyond the reference's own noise"
    rows = [
        [
            textwrap.fill(entry["task"], NAME_WIDTHS[1]),
            _name(head) + ("!" if head["broken"] else ""),
            _with_interval(head["importance_ref"], head["importance_ref_interval"]),
            _with_interval(head["importance_cand"], head["importance_cand_interval"]),
            "-" if head["rank_ref"] is None else f"{head['rank_ref']} -> {head['rank_cand']}",
            _short(head["drift"]) + ("!" if _drifted(entry, head) else ""),
            _short(head["fragility"]),
            _short(head["repair_gain"]),
        ]
        for entry, head in heads[: min(max(FRAGILE_HEADS, broken), BROKEN_HEADS)]
    ]
    headers = ["task", "head", "importance ref", "importance cand", "rank", "drift", "fragility", "repair"]
    return f"Most fragile heads of {candidate}{', broken ones first' if broken else ''}\n{_table(rows, headers)}"


def _associations(entries: list[Entry]) -> str:
    """Importance against drift, one row a candidate and task; nothing where nothing could be correlated."""
    kinds = list(dict.fromkeys(kind for entry in entries for kind in entry["associations"] or ()))
    rows = [
        [
            *(textwrap.fill(entry[key], width) for key, width in zip(("candidate", "task"), NAME_WIDTHS, strict=True)),
            *(_association((entry["associations"] or {}).get(kind)) for kind in kinds),
        ]
        for entry in entries
        if any(row["within_layers"]["value"] is not None for row in (entry["associations"] or {}).values())
    ]
    if not rows:
        return ""
    table = _table(rows, ["candidate", "task", *(f"importance by {kind}" for kind in kinds)])
    return f"{ASSOCIATIONS}\n{table}"


def _association(association: Mapping[str, Any] | None) -> str:
    if association is None:
        return "-"
    within = association["within_layers"]
    return (
        f"{_short(association['raw']['value'])}; {_with_interval(within['value'], within['interval'])} "
        f"p {_short(association['p_within_layers'])}"
    )


def _audits(entries: list[Entry]) -> str:
    """Degradation beside estimate and bound, one row a candidate and task in which anything has moved."""
    moved = [entry for entry in entries if entry["bound"] and entry["bound"]["bound"] != 0]
    if not moved:
        return ""
    is_integrated = any(entry["bound"]["integrated"] for entry in moved)
    rows = [
        [
            *(textwrap.fill(entry[key], width) for key, width in zip(("candidate", "task"), NAME_WIDTHS, strict=True)),
            *_audit(entry["bound"]),
            *(_integrated(entry["bound"]["integrated"]) if is_integrated else []),
        ]
        for entry in moved
    ]
    headers = ["candidate", "task", "degradation", "estimate", "off by", "bound", "looseness", "bound holds for"]
    table = _table(rows, [*headers, *(["integrated", "off by"] if is_integrated else [])])
    return "\n".join([AUDIT, table, *([] if is_integrated else [NO_REFERENCE])])


def _audit(bound: Mapping[str, Any]) -> list[str]:
    holds = f"{bound['coverage']:.0%} of prompts" + (", VIOLATED" if bound["violated"] else "")
    values = ("degradation", "estimate", "relative_error", "bound", "looseness")
    shown = [_short(bound[name]) for name in values]
    shown[2] = _share(bound["relative_error"])
    return [*shown, holds]


def _integrated(integrated: Mapping[str, Any] | None) -> list[str]:
    if integrated is None:
        return ["-", "-"]
    return [_short(integrated["estimate"]), _share(integrated["relative_error"])]


def _searches(entries: list[Entry]) -> list[str]:
    """What was found by those runs that looked further: other specifications, and what to keep in high precision."""
    lines, searched = [], set()
    for entry in entries:
        case, other, keep = f"{entry['candidate']}-{entry['task']}", entry["multiverse"], entry["keep"]
        if other is not None:
            flipped = [row for row in other["specifications"] if row["verdict"] != entry["verdict"]]
            listed = [_specification(row) for row in flipped]
            named = f" ({', '.join(listed)})" if listed else ""
            lines.append(f"{case}: the verdict flips under {other['flips']} of {other['of']} specifications{named}")
        if keep is not None and entry["candidate"] not in searched:  # the list is the candidate's, for all its tasks
            searched.add(entry["candidate"])
            lines += _keep_list(entry["candidate"], keep)
    return lines


def _specification(row: Mapping[str, Any]) -> str:
    """A specification's verdict, with the reason of one that could not be measured."""
    shown = f"{row['ablation']}/{row['metric']}/{row['ablate_at']}: {row['verdict']}"
    return f"{shown}, not measured: {row['message']}" if row["message"] else shown


def _keep_list(candidate: str, keep: Mapping[str, Any]) -> list[str]:
    if keep["message"]:
        return [f"{candidate}: no keep list: {keep['message']}"]
    count = len(keep["modules"])
    opening = f"{candidate}: {keep['verdict']} with {count} module(s) in high precision, re-measured so:"
    return [opening, *(f"  {name}: {keep[key]}" for name, key in LIBRARIES.items())]


def _most_telling(row: Row) -> tuple[bool, float]:
    """Sorts heads: those that broke by how far their importance has moved, then all others by fragility."""
    _, head = row
    return (False, _importance_moved(head)) if head["broken"] else (True, -(head["fragility"] or 0.0))


def _importance_moved(head: Mapping[str, Any]) -> float:
    change = head["importance_change"]
    return -float("inf") if change is None else -abs(change)


def _drift(head: Mapping[str, Any]) -> float:
    return -float("inf") if head["drift"] is None else -head["drift"]


def _drifted(entry: Entry, head: Mapping[str, Any]) -> bool:
    """Whether the head's drift is beyond the limit on the largest drift; a drift that is undefined is."""
    limit = _limit(entry, "drift_largest")
    return limit is not None and (head["drift"] is None or head["drift"] > limit)


def _is_still(entry: Entry, head: Mapping[str, Any]) -> bool:
    """Whether the head's z moved by no more than the reference's own does."""
    return head["drift"] is not None and head["drift"] <= entry["noise_floor"].get("drift", 0.0)


def _limit(entry: Entry, name: str) -> float | None:
    return next((row["limit"] for row in entry["criteria"] if row["name"] == name), None)


def _messages(entries: list[Entry]) -> list[str]:
    lines = []
    for entry in entries:
        messages = [entry["message"], *(criterion["message"] for criterion in entry["criteria"])]
        lines += [f"{entry['candidate']}-{entry['task']}: {message}" for message in messages if message]
    return lines


def _notes(entries: list[Entry]) -> list[str]:
    notes: dict[str, list[str]] = {}
    for entry in entries:
        for note in entry["notes"]:
            notes.setdefault(note, []).append(f"{entry['candidate']}-{entry['task']}")
    return [
        f"note: {note}" + ("" if len(cases) == len(entries) else f" ({', '.join(cases)})")
        for note, cases in notes.items()
    ]


def _table(rows: list[list[str]], headers: list[str]) -> str:
    return tabulate(rows, headers, tablefmt="simple", disable_numparse=True, stralign="right")


def _wrapped(paragraphs: Iterable[str]) -> str:
    """Every line of every paragraph, broken at the width; what follows a break is indented."""
    lines = [line for paragraph in paragraphs for line in paragraph.splitlines()]
    return "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="    ", break_on_hyphens=False) for line in lines)


def _name(head: Mapping[str, Any]) -> str:
    return f"{head['layer']}.{head['head']}"


def _with_interval(value: float | None, interval: list[float | None]) -> str:
    return f"{_short(value)} [{_short(interval[0])}, {_short(interval[1])}]"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _short(value: float | None) -> str:
    """At most seven characters."""
    if value is None:
        return "-"
    if (value and abs(value) < 5e-4) or abs(value) >= 1000:
        return f"{value:.0e}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"
