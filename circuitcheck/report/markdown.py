"""The report as GitHub's Markdown: for step summaries, comments and the report's directory."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from circuitcheck.report.compare import comparison_rows
from circuitcheck.report.escape import code, prose
from circuitcheck.report.fields import CRITERIA, Entry

STEP_SUMMARY = 1024 * 1024
"""Bytes that GitHub takes of one step's summary; a longer one is refused whole."""

COMMENT = 65_536
"""Characters that GitHub takes of one comment."""

SMALLEST = 1024
"""Bytes below which no report is rendered."""

LONGEST_MESSAGE = 2000
"""Characters of one message, before escapes."""

WORDS = {"PASS": "✅ PASS", "FAIL": "❌ FAIL", "INCONCLUSIVE": "⚠️ INCONCLUSIVE"}
MARKS = {"PASS": "", "FAIL": " ❌", "INCONCLUSIVE": " ⚠️"}
HEAD_COLUMNS = (
    "candidate",
    "task",
    "head",
    "importance ref",
    "importance cand",
    "rank",
    "drift",
    "fragility",
    "repair",
)

GRID, FAILED, MOVED, BROKEN, UNDECIDED, CHANGED, NOTE, FAILED_HEAD, PASSED, PASSED_HEAD = range(10)
"""How soon a row is cut: the last kind first."""

Weight = tuple[int, float]
"""Kind and, within it, how much a row matters less than another; the smallest is cut last."""


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

    Where it would be longer, the least important rows are left out, and it says how many: first the least fragile heads
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
    return [_grid(runs), _failed(runs), changed, _criteria(runs), _heads(runs), _notes(runs)]


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
    runs = document["runs"]
    counts = {word: sum(run["verdict"] == word for run in runs) for word in WORDS}
    if counts["FAIL"]:
        word = "❌ FAIL"
    elif not document["complete"]:
        word = "⚠️ INCOMPLETE"
    elif counts["INCONCLUSIVE"] or not runs:
        word = WORDS["INCONCLUSIVE"]
    else:
        word = WORDS["PASS"]
    listed = [f"{count} {name}" for name, count in counts.items() if count]
    missing = document["expected_runs"] - len(runs)
    listed += [f"{missing} of {document['expected_runs']} not compared"] if missing else []
    return f"## Circuit gate: {word}\n\n{', '.join(listed) or 'nothing was compared'}."


def _grid(runs: Sequence[Entry]) -> Section:
    """One row a candidate, one column a task."""
    tasks = list(dict.fromkeys(run["task"] for run in runs))
    verdicts = {(run["candidate"], run["task"]): run["verdict"] for run in runs}
    section = Section("### Verdicts", _head(["candidate", *(code(task) for task in tasks)]))
    for place, candidate in enumerate(dict.fromkeys(run["candidate"] for run in runs)):
        words = [verdicts.get((candidate, task)) for task in tasks]
        passes = all(word == "PASS" for word in words)
        cells = ["-" if word is None else WORDS[word] for word in words]
        section.rows.append(((PASSED if passes else GRID, place), _row([code(candidate), *cells])))
    return section


def _failed(runs: Sequence[Entry]) -> Section:
    """What broke, in sentences."""
    section = Section("### What did not pass")
    for place, run in enumerate(runs):
        kind = FAILED if run["verdict"] == "FAIL" else UNDECIDED
        messages = [run["message"], *(criterion["message"] for criterion in run["criteria"])]
        for message in filter(None, messages):
            line = f"- {code(run['candidate'])} on {code(run['task'])}: {prose(_cut(message))}"
            section.rows.append(((kind, place), line))
    return section


def _criteria(runs: Sequence[Entry]) -> Section:
    names = [name.replace("\n", " ").replace("- ", "") for name in CRITERIA.values()]
    section = Section("### Criteria", _head(["candidate", "task", *names, "diagnosis", "verdict"]))
    for place, run in enumerate(runs):
        if run["criteria"]:
            kind = PASSED if run["verdict"] == "PASS" else MOVED
            repair = run["repair"]["diagnosis"] if run["repair"] else "-"
            cells = [code(run["candidate"]), code(run["task"]), *_cells(run), repair, WORDS[run["verdict"]]]
            section.rows.append(((kind, place), _row(cells)))
    section.footer = "\n❌ beyond its limit, ⚠️ its interval contains the limit, - undefined."
    return section


def _cells(run: Entry) -> list[str]:
    found = {criterion["name"]: criterion for criterion in run["criteria"]}
    cells = []
    for name in CRITERIA:
        if name not in found:
            cells.append("-")
            continue
        shown = number(found[name]["value"])
        ceiling = run["ranking"]["ceiling"] if name == "ranking_agreement" and run["ranking"] else None
        cells.append(shown + (f" ({number(ceiling)})" if ceiling is not None else "") + MARKS[found[name]["verdict"]])
    return cells


def _heads(runs: Sequence[Entry]) -> Section:
    """Every head, broken and fragile ones first, folded away."""
    section = Section("### Heads, most fragile first")
    rows = [(_head_weight(run, head), run, head) for run in runs for head in run["heads"]]
    rows.sort(key=lambda row: row[0])
    for weight, run, head in rows:
        ranks = "-" if head["rank_ref"] is None else f"{head['rank_ref']} → {head['rank_cand']}"
        cells = [
            code(run["candidate"]),
            code(run["task"]),
            f"{head['layer']}.{head['head']}{' ❌' if head.get('broken') else ''}",
            _with_interval(head, "importance_ref"),
            _with_interval(head, "importance_cand"),
            ranks,
            *(number(head[key]) for key in ("drift", "fragility", "repair_gain")),
        ]
        section.rows.append((weight, _row(cells)))
    section.header = f"<details>\n<summary>Importance, drift and fragility</summary>\n\n{_head(HEAD_COLUMNS)}"
    section.footer = (
        "\nImportance is the logit difference lost by ablation, with its 95 % interval; fragility is mean "
        "|gradient × drift|, repair what this head's reference z gives back, all in logits. ❌ broke.\n\n</details>"
    )
    return section


def _head_weight(run: Entry, head: Mapping[str, Any]) -> Weight:
    if head.get("broken"):
        return BROKEN, -abs(head["importance_change"] or 0.0)
    return (PASSED_HEAD if run["verdict"] == "PASS" else FAILED_HEAD), -(head["fragility"] or 0.0)


def _notes(runs: Sequence[Entry]) -> Section:
    cases: dict[str, list[Entry]] = {}
    for run in runs:
        for note in run["notes"]:
            cases.setdefault(note, []).append(run)
    section = Section("### Notes")
    for place, (note, noted) in enumerate(cases.items()):
        where = ", ".join(f"{code(run['candidate'])} on {code(run['task'])}" for run in noted[:3])
        more = f" and {len(noted) - 3} more" if len(noted) > 3 else ""
        of = "" if len(noted) == len(runs) else f" ({where}{more})"
        section.rows.append(((NOTE, place), f"- {prose(_cut(note))}{of}"))
    return section


def _closing(document: Mapping[str, Any]) -> str:
    """What made these numbers."""
    environment = document["environment"]
    libraries = ", ".join(f"{name} {version}" for name, version in sorted(environment.get("libraries", {}).items()))
    lines = [
        "### Provenance",
        "",
        prose(
            f"circuitcheck {environment.get('circuitcheck', '?')}, Python {environment.get('python', '?')}, "
            f"{libraries}, on {environment.get('device', '?')} ({environment.get('instruction_set', '?')})."
        ),
    ]
    command = str(document.get("command") or "")
    if command:
        lines += ["", f"Again: {code(_cut(command))}"]
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Three digits that matter, or `-` where a number is undefined."""
    if value is None:
        return "-"
    if (value and abs(value) < 5e-4) or abs(value) >= 1000:
        return f"{value:.0e}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"


def _with_interval(head: Mapping[str, Any], key: str) -> str:
    low, high = head[f"{key}_interval"]
    return f"{number(head[key])} [{number(low)}, {number(high)}]"


def _head(cells: Iterable[str]) -> str:
    columns = list(cells)
    return f"{_row(columns)}\n{_row(['---'] * len(columns))}\n"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cut(message: str) -> str:
    return message if len(message) <= LONGEST_MESSAGE else f"{message[: LONGEST_MESSAGE - 1]}…"
