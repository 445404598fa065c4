"""The fragility tables for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from circuitcheck.core.people import plain, plain_lines
from circuitcheck.core.results import Verdict
from circuitcheck.report.compare import comparison_lines
from circuitcheck.report.coordinates import kept_otherwise
from circuitcheck.report.damage_places import placed, placing_table
from circuitcheck.report.document import run_entry
from circuitcheck.report.feature_tables import features_table
from circuitcheck.report.fields import Entry
from circuitcheck.report.population_rows import chosen, population_table
from circuitcheck.report.routing_rows import routing_table
from circuitcheck.report.rows import (
    UNIT_HEADINGS,
    Table,
    are_still,
    associations_table,
    audit_table,
    criteria_table,
    eased,
    moved_units,
    noted,
    of_whom,
    reasons,
    searches,
    unit_rows,
)
from circuitcheck.report.words import case_of, kinds_of, loosened, said_of, task_of

WIDTH = 160
"""No line is longer."""

FRAGILE_UNITS = 8
"""Units shown per candidate, unless more of them broke."""

BROKEN_UNITS = 24
"""The most units shown per candidate."""

NAME_WIDTHS = (15, 12)
"""Widths at which names of candidates and tasks are broken."""

HEADING_WIDTH = 9
"""Width at which headings of criteria are broken."""

MARKS = {"FAIL": "!", "INCONCLUSIVE": "?", "PASS": ""}

LEGEND = (
    "! beyond its limit, ? its interval contains the limit, - undefined. Ranking is rank-biased overlap, beside it the "
    "reference's own split-half agreement. Drift is how far what units write has moved, read in logits: of all "
    "together, of the worst layer and of the worst unit, in times what plain rounding to the same precision does to "
    "this model (x), or, where the baseline does not know that, the median and the largest, relative. KL and changed "
    "answers are no criteria: the divergence of the next token, in nats, and how often the likeliest one is another. "
    "Importance is the logit difference lost by ablation, with its interval (95 %, unless a note says "
    "otherwise); fragility is mean |gradient x "
    "drift|, repair what giving this unit the reference's write gives back, in logits; the drift of z, a unit's "
    "coordinates, stands beside that of what it writes. A unit marked ! broke: its importance has moved beyond the "
    "limit on profile distance, with the whole interval that holds for all units at once. A drift marked ! is beyond "
    "the limit for single units; its cause may lie in an earlier layer. A unit without a rank was not swept."
)


def render(verdicts: Iterable[Verdict]) -> str:
    """The summary and the fragility tables of some verdicts, as `pytest --circuit-report` prints them."""
    return render_entries([run_entry(verdict) for verdict in verdicts])


def render_entries(entries: list[Entry]) -> str:
    """The same, of entries of a report."""
    parts = [_summary(entries), _said((case_of(run), text) for run, text in moved_units(entries))]
    parts.append(_said((case_of(run), f"damage: {placed(run)}") for run in entries if placed(run)))
    parts.append(_said_once("limits", eased(entries)))
    parts.append(_said_once("basis", kept_otherwise(entries)))
    for kind in kinds_of(entries):
        of_kind = [entry for entry in entries if entry["unit"] == kind]
        for candidate in dict.fromkeys(entry["candidate"] for entry in of_kind):
            parts.append(_fragile(candidate, [entry for entry in of_kind if entry["candidate"] == candidate]))
    tables = (placing_table, features_table, routing_table, population_table, associations_table, audit_table)
    parts += [_titled(make(entries)) for make in tables]
    parts += [
        _said((run["candidate"] if is_for_all else case_of(run), text) for run, is_for_all, text in searches(entries)),
        _said((case_of(run), text) for run in entries for text in reasons(run)),
        _said_once("note", of_whom([(chosen(run), run) for run in entries if chosen(run)], len(entries))),
        _said_once("note", noted(entries)),
        _wrapped([said_of(kinds_of(entries), LEGEND)]),
    ]
    return "\n\n".join(part for part in parts if part)


def render_comparison(comparison: Mapping[str, Any] | None) -> str:
    """What changed since an older report; empty if there was none."""
    return _wrapped(comparison_lines(comparison))


def _wrapped(paragraphs: Iterable[str]) -> str:
    """Every line of every paragraph, broken at the width; what follows a break is indented."""
    lines = [line for paragraph in paragraphs for line in paragraph.splitlines()]
    return "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="    ", break_on_hyphens=False) for line in lines)


def _summary(entries: list[Entry]) -> str:
    table = criteria_table(entries)
    rows = [[*_names(run), *(cell.marked(MARKS) for cell in cells), _verdict(run)] for run, cells in table.rows]
    headings = [textwrap.fill(heading, HEADING_WIDTH, break_long_words=False) for heading in table.headings]
    return _laid_out(rows, ["candidate", "task", *headings, "verdict"])


def _verdict(run: Entry) -> str:
    return str(run["verdict"]) + ("\nloosened\nlimits" if loosened(run) else "")


def _fragile(candidate: str, entries: list[Entry]) -> str:
    rows = unit_rows(entries)
    if not rows:
        return ""
    title = said_of(entries[0]["unit"], "Most fragile units of ") + plain(candidate)
    if are_still(rows):
        return f"{title}: none, what they write has not moved beyond the reference's own noise"
    broken = sum(row.is_broken for row in rows)
    shown = rows[: min(max(FRAGILE_UNITS, broken), BROKEN_UNITS)]
    cells = [[_names(row.run)[1], *(plain(cell.marked(MARKS)) for cell in row.cells)] for row in shown]
    table = _laid_out(cells, ["task", said_of(entries[0]["unit"], "unit"), *UNIT_HEADINGS])
    return f"{title}{', broken ones first' if broken else ''}\n{table}"


def _titled(table: Table) -> str:
    """A table with its title, if it has rows."""
    if not table.rows:
        return ""
    rows = [[*_names(run), *(cell.marked(MARKS) for cell in cells)] for run, cells in table.rows]
    title = f"{table.title}{' ' if table.title.endswith('?') else ', '}{table.caption}"
    lines = [title, _laid_out(rows, ["candidate", "task", *table.headings]), table.after]
    return "\n".join(line for line in lines if line)


def _said(messages: Iterable[tuple[str, str]]) -> str:
    return _wrapped(f"{plain(name)}: {plain_lines(text)}" for name, text in messages)


def _said_once(what: str, said: Iterable[tuple[str, Sequence[Entry]]]) -> str:
    return _wrapped(f"{what}: {plain(text)}{_of(runs)}" for text, runs in said)


def _of(runs: Sequence[Entry]) -> str:
    return f" ({', '.join(plain(case_of(run)) for run in runs)})" if runs else ""


def _names(run: Entry) -> list[str]:
    names = zip((run["candidate"], task_of(run)), NAME_WIDTHS, strict=True)
    return [textwrap.fill(plain(name), width) for name, width in names]


def _laid_out(rows: list[list[str]], headings: list[str]) -> str:
    return tabulate(rows, headings, tablefmt="simple", disable_numparse=True, stralign="right")
