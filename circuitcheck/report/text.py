"""The fragility tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tabulate import tabulate

from circuitcheck.report.document import run_entry
from circuitcheck.report.fields import CRITERIA, Entry
from circuitcheck.verdict.judge import Verdict

FRAGILE_HEADS = 8
"""Heads shown per candidate, unless more of them broke."""

MARKS = {"FAIL": "!", "INCONCLUSIVE": "?", "PASS": ""}

LEGEND = (
    "! fails its limit, ? its interval contains the limit, - undefined. Ranking is rank-biased overlap, beside it the\n"
    "reference's own split-half agreement. Importance is the logit difference lost by ablation, with its 95 %\n"
    "interval; fragility is mean |gradient x drift|, repair what this head's reference z gives back, all in logits.\n"
    "A head marked ! has moved by more than the limit on profile distance."
)


def render(verdicts: Iterable[Verdict]) -> str:
    """The summary and the fragility tables of some verdicts, as `pytest --circuit-report` prints them."""
    return render_entries([run_entry(verdict) for verdict in verdicts])


def render_entries(entries: list[Entry]) -> str:
    """The same, of entries of a report."""
    parts = [_summary(entries)]
    candidates = dict.fromkeys(entry["candidate"] for entry in entries)
    for candidate in candidates:
        table = _fragile_heads([entry for entry in entries if entry["candidate"] == candidate])
        if table:
            parts.append(f"Most fragile heads of {candidate}\n{table}")
    parts += [_messages(entries), _notes(entries), LEGEND]
    return "\n\n".join(part for part in parts if part)


def _summary(entries: list[Entry]) -> str:
    rows = [
        [entry["candidate"], entry["task"], *_cells(entry), _diagnosis(entry), entry["verdict"]] for entry in entries
    ]
    headers = ["candidate", "task", *CRITERIA.values(), "diagnosis", "verdict"]
    return tabulate(rows, headers, tablefmt="simple", disable_numparse=True, stralign="right")


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


def _fragile_heads(entries: list[Entry]) -> str:
    heads = [(entry, head, _broke(entry, head)) for entry in entries for head in entry["heads"]]
    heads.sort(key=lambda item: (not item[2], -(item[1]["fragility"] or 0.0)))
    shown = max(FRAGILE_HEADS, sum(broke for _, _, broke in heads))
    rows = [
        [
            entry["task"],
            f"{head['layer']}.{head['head']}{'!' if broke else ''}",
            _with_interval(head["importance_ref"], head["importance_ref_interval"]),
            _with_interval(head["importance_cand"], head["importance_cand_interval"]),
            f"{head['rank_ref']} -> {head['rank_cand']}",
            _short(head["drift"]),
            _short(head["fragility"]),
            _short(head["repair_gain"]),
        ]
        for entry, head, broke in heads[:shown]
    ]
    headers = ["task", "head", "importance ref", "importance cand", "rank", "drift", "fragility", "repair"]
    return tabulate(rows, headers, tablefmt="simple", disable_numparse=True, stralign="right") if rows else ""


def _broke(entry: Entry, head: Mapping[str, Any]) -> bool:
    """Whether the head's importance moved by more than the limit on profile distance allows."""
    limit = next((row["limit"] for row in entry["criteria"] if row["name"] == "profile_distance"), None)
    largest = max((abs(row["importance_ref"] or 0.0) for row in entry["heads"]), default=0.0)
    change = head["importance_change"]
    return limit is not None and (change is None or abs(change) > limit * largest)


def _messages(entries: list[Entry]) -> str:
    lines = []
    for entry in entries:
        messages = [entry["message"], *(criterion["message"] for criterion in entry["criteria"])]
        lines += [f"{entry['candidate']}-{entry['task']}: {message}" for message in messages if message]
    return "\n".join(lines)


def _notes(entries: list[Entry]) -> str:
    notes: dict[str, list[str]] = {}
    for entry in entries:
        for note in entry["notes"]:
            notes.setdefault(note, []).append(f"{entry['candidate']}-{entry['task']}")
    return "\n".join(
        f"note: {note}" + ("" if len(cases) == len(entries) else f" ({', '.join(cases)})")
        for note, cases in notes.items()
    )


def _with_interval(value: float | None, interval: list[float | None]) -> str:
    return f"{_short(value)} [{_short(interval[0])}, {_short(interval[1])}]"


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    if value and abs(value) < 5e-4:
        return f"{value:.0e}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"
