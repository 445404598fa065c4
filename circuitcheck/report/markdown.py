"""The report as GitHub's Markdown: for step summaries, comments and the report's directory."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from circuitcheck.report.compare import comparison_rows
from circuitcheck.report.coordinates import kept_otherwise
from circuitcheck.report.damage_places import placed, placing_table
from circuitcheck.report.escape import code, prose
from circuitcheck.report.feature_tables import features_table
from circuitcheck.report.fields import Entry
from circuitcheck.report.population_rows import chosen, population_table
from circuitcheck.report.routing_rows import routing_table
from circuitcheck.report.rows import (
    UNIT_HEADINGS,
    Cell,
    Table,
    associations_table,
    audit_table,
    criteria_table,
    eased,
    noted,
    of_whom,
    outcome,
    reasons,
    searches,
    unit_rows,
    verdict_grid,
)
from circuitcheck.report.words import kinds_of, loosened, said_of, task_of

STEP_SUMMARY = 1024 * 1024
"""Bytes that GitHub takes of one step's summary; a longer one is refused whole."""

COMMENT = 65_536
"""Characters that GitHub takes of one comment."""

SMALLEST = 1024
"""Bytes below which no report is rendered."""

LONGEST_MESSAGE = 2000
"""Characters of one message, before escapes."""

WORDS = {"PASS": "✅ PASS", "FAIL": "❌ FAIL", "INCONCLUSIVE": "⚠️ INCONCLUSIVE"}
"""Verdicts; the word of a run that did not end is marked like INCONCLUSIVE."""

MARKS = {"PASS": "", "FAIL": " ❌", "INCONCLUSIVE": " ⚠️"}
SIMPLE = re.compile(r"[^\W_]+(?:[. ][^\W_]+)*")
"""Names of units in which there is nothing to escape."""

GRID, FAILED, MOVED, BROKEN, UNDECIDED, CHANGED, NOTE, FAILED_UNIT, PASSED, SEARCH, PASSED_UNIT = range(11)
"""How soon a row is cut: the last kind first."""

Weight = tuple[int, float]
"""Kind and, within it, how much a row matters less than another; the smallest is cut last."""

TABLES = (placing_table, features_table, routing_table, population_table, associations_table, audit_table)
"""What stands below the fragility tables, in this order."""


@dataclass
class Section:
    """A heading with lines that may be cut.

    Attributes:
        heading: in Markdown, without escapes.
        header: what stands before the first row: nothing, or a table's head.
        rows: what each row weighs, and the row, in the order shown.
        footer: what stands after the last row.
    """

    heading: str
    header: str = ""
    rows: list[tuple[Weight, str]] = field(default_factory=list)
    footer: str = ""


def render_markdown(document: Mapping[str, Any], limit_bytes: int = COMMENT) -> str:
    """The report in at most so many bytes of UTF-8.

    Where it would be longer, the least important rows are left out, and it says how many: first the least fragile units
    of what passes, then what passes itself, and last what fails.

    Args:
        document: the report.
        limit_bytes: from 1,024 up.

    Raises:
        ValueError: the limit is too small for any report.
    """
    if limit_bytes < SMALLEST:
        raise ValueError(f"limit_bytes is {limit_bytes}, but must be at least {SMALLEST}")
    sections = _sections(document)
    opening, closing = _opening(document), _closing(document)
    order = sorted(
        (weight, place, number)
        for place, section in enumerate(sections)
        for number, (weight, _) in enumerate(section.rows)
    )

    def with_rows(count: int) -> str:
        return _assembled(opening, sections, {(place, number) for _, place, number in order[:count]}, closing)

    def is_too_long(count: int) -> bool:
        return len(with_rows(count).encode()) > limit_bytes

    kept = len(order)
    if is_too_long(kept):
        kept = max(bisect_left(range(len(order) + 1), True, key=is_too_long) - 1, 0)
    text = with_rows(kept)
    return text if len(text.encode()) <= limit_bytes else _assembled(opening, sections, set(), "")


def write_step_summary(document: Mapping[str, Any], environ: Mapping[str, str]) -> Path | None:
    """Appends the report to the step summary of a GitHub workflow, where the run has one.

    Args:
        document: the report.
        environ: environment variables; the summary is the file that `GITHUB_STEP_SUMMARY` names.

    Returns:
        The file, or None where there is none, or where earlier content leaves no room.

    Raises:
        OSError: it cannot be written.
    """
    name = environ.get("GITHUB_STEP_SUMMARY")
    if not name:
        return None
    file = Path(name)
    before = file.read_bytes() if file.exists() else b""
    separator = b"" if not before or before.endswith(b"\n\n") else b"\n" if before.endswith(b"\n") else b"\n\n"
    room = STEP_SUMMARY - len(before) - len(separator)
    if room < SMALLEST:
        return None
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as stream:
        stream.write(separator + render_markdown(document, room).encode())
    return file


def _sections(document: Mapping[str, Any]) -> list[Section]:
    runs = document["runs"]
    lines = comparison_rows(document.get("compare"))
    changed = Section("### Since the last release", rows=[((CHANGED, place), line) for place, line in enumerate(lines)])
    tables = [_diagnostic(make(runs)) for make in TABLES]
    where = Section("### Where the damage is")
    where.rows = [
        ((MOVED, place), f"- {_case(run)}: {prose(placed(run))}.") for place, run in enumerate(runs) if placed(run)
    ]
    some = _said_once("### Measured of many", of_whom([(chosen(run), run) for run in runs if chosen(run)], len(runs)))
    limits = _said_once("### Loosened limits", eased(runs))
    basis, notes = _said_once("### Basis", kept_otherwise(runs)), _said_once("### Notes", noted(runs))
    units = _units(runs)
    first = [_grid(runs), limits, _failed(runs), where, changed, _criteria(runs), basis, some, units]
    return [*first, *tables, _searches(runs), notes]


def _assembled(opening: str, sections: Sequence[Section], kept: set[tuple[int, int]], closing: str) -> str:
    parts = [opening]
    cut = 0
    for place, section in enumerate(sections):
        rows = [row for number, (_, row) in enumerate(section.rows) if (place, number) in kept]
        cut += len(section.rows) - len(rows)
        if rows:
            parts.append(f"{section.heading}\n\n{section.header}" + "\n".join(rows) + f"\n{section.footer}")
    if cut:
        parts.append(f"*{cut:,} rows were left out to keep this short, least important first; report.json has all.*")
    return "\n\n".join(part.rstrip("\n") for part in (*parts, closing) if part) + "\n"


def _opening(document: Mapping[str, Any]) -> str:
    found = outcome(document)
    word = WORDS.get(found.word, f"⚠️ {found.word}")
    return f"## Circuit gate: {word}\n\n{found.listed}."


def _grid(runs: Sequence[Entry]) -> Section:
    """One row a candidate, one column a task."""
    tasks, rows = verdict_grid(runs)
    section = Section("### Verdicts", _head(["candidate", *map(code, tasks)]))
    for place, (candidate, found) in enumerate(rows):
        passes = all(run is not None and run["verdict"] == "PASS" for run in found)
        cells = ["-" if run is None else verdict(run) for run in found]
        section.rows.append(((PASSED if passes else GRID, place), _row([code(candidate), *cells])))
    return section


def verdict(run: Entry) -> str:
    """A run's verdict, and whether its limits are the usual ones."""
    return WORDS[run["verdict"]] + (", loosened limits" if loosened(run) else "")


def _failed(runs: Sequence[Entry]) -> Section:
    """What broke, in sentences."""
    section = Section("### What did not pass")
    for place, run in enumerate(runs):
        weight = (FAILED if run["verdict"] == "FAIL" else UNDECIDED, place)
        section.rows += [(weight, f"- {_case(run)}: {prose(_cut(message))}") for message in reasons(run)]
    return section


def _criteria(runs: Sequence[Entry]) -> Section:
    table = criteria_table([run for run in runs if run["criteria"]])
    section = Section("### Criteria", _head(["candidate", "task", *table.headings, "verdict"]))
    for place, (run, cells) in enumerate(table.rows):
        kind = PASSED if run["verdict"] == "PASS" else MOVED
        section.rows.append(((kind, place), _row([*_names(run), *_written(cells), verdict(run)])))
    section.footer = "\n❌ beyond its limit, ⚠️ its interval contains the limit, - undefined."
    return section


def _units(runs: Sequence[Entry]) -> Section:
    """Every unit, broken and fragile ones first, folded away."""
    kinds = kinds_of(runs)
    section = Section(said_of(kinds, "### Units, most fragile first"))
    for row in unit_rows(runs):
        kind = BROKEN if row.is_broken else PASSED_UNIT if row.run["verdict"] == "PASS" else FAILED_UNIT
        name, *numbers = row.cells
        name = name if SIMPLE.fullmatch(name.text) else replace(name, text=prose(name.text))
        section.rows.append(((kind, row.weight), _row([*_names(row.run), *_written([name, *numbers])])))
    section.rows.sort(key=lambda row: row[0])
    head = _head(["candidate", "task", said_of(kinds, "unit"), *UNIT_HEADINGS])
    section.header = f"<details>\n<summary>Importance, drift and fragility</summary>\n\n{head}"
    section.footer = said_of(
        kinds,
        "\nImportance is the logit difference lost by ablation, with its interval (95 %, unless a note "
        "says otherwise); drift is how far what a unit "
        "writes has moved, read in logits, beside it that of z, its coordinates; fragility is mean |gradient × drift|, "
        "repair what giving this unit the reference's write gives back, in logits. ❌ broke.\n\n</details>",
    )
    return section


def _diagnostic(table: Table) -> Section:
    """A table that no verdict hangs on, folded away."""
    after = f"\n{prose(table.after)}\n" if table.after else ""
    section = Section(f"### {table.title}", footer=f"{after}\n</details>")
    for place, (run, cells) in enumerate(table.rows):
        section.rows.append(((SEARCH, place), _row([*_names(run), *_written(cells)])))
    head = _head(["candidate", "task", *table.headings])
    section.header = f"<details>\n<summary>{prose(table.caption)}</summary>\n\n{head}"
    return section


def _searches(runs: Sequence[Entry]) -> Section:
    section = Section("### Searches")
    for place, (run, is_for_all, text) in enumerate(searches(runs)):
        name = code(run["candidate"]) if is_for_all else _case(run)
        section.rows.append(((SEARCH, place), f"- {name}: {prose(_cut(text))}"))
    return section


def _said_once(heading: str, said: Iterable[tuple[str, Sequence[Entry]]]) -> Section:
    section = Section(heading)
    for place, (text, of) in enumerate(said):
        more = f" and {len(of) - 3} more" if len(of) > 3 else ""
        where = f" ({', '.join(map(_case, of[:3]))}{more})" if of else ""
        section.rows.append(((NOTE, place), f"- {prose(_cut(text))}{where}"))
    return section


def _closing(document: Mapping[str, Any]) -> str:
    """What made these numbers."""
    lines = ["### Provenance", "", f"{made_with(document['environment'])}."]
    if document.get("settings"):
        lines += ["", f"Settings: {code(document['settings'])}"]
    command = str(document.get("command") or "")
    if command:
        lines += ["", f"Again: {code(_cut(command))}"]
    return "\n".join(lines)


def made_with(environment: Mapping[str, Any]) -> str:
    """Versions and the machine, in Markdown."""
    versions = {"circuitcheck": environment.get("circuitcheck", "?"), "Python": environment.get("python", "?")}
    versions |= dict(sorted(environment.get("libraries", {}).items()))
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    machine = f"{environment.get('device', '?')} ({environment.get('instruction_set', '?')})"
    return prose(f"{listed}, on {machine}")


def _case(run: Entry) -> str:
    return " on ".join(_names(run))


def _names(run: Entry) -> list[str]:
    return [code(run["candidate"]), code(task_of(run))]


def _written(cells: Iterable[Cell]) -> list[str]:
    return [cell.marked(MARKS).replace(" -> ", " → ") for cell in cells]


def _head(cells: Iterable[str]) -> str:
    columns = list(cells)
    return f"{_row(columns)}\n{_row(['---'] * len(columns))}\n"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cut(message: str) -> str:
    return message if len(message) <= LONGEST_MESSAGE else f"{message[: LONGEST_MESSAGE - 1]}…"
