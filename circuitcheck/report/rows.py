"""What terminal, Markdown and page show of a report, built once: they only lay it out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from circuitcheck.report.fields import Entry
from circuitcheck.report.numbers import number, number_interval, share
from circuitcheck.report.words import loosened, said_of, task_of
from circuitcheck.verdict.criteria import CRITERIA
from circuitcheck.verdict.judgement import worst

DRIFT = "drift"
"""The suite's test whose criteria share a column: which of them apply depends on the baseline."""

IN_COLUMNS = tuple(criterion for criterion in CRITERIA if criterion.test != DRIFT)

LISTED = 8
"""Units named in one line."""

LIBRARIES = {
    "torchao": "torchao",
    "compressed-tensors": "compressed_tensors",
    "bitsandbytes": "bitsandbytes",
    "llama.cpp": "llama_cpp",
    "ONNX Runtime": "onnxruntime",
}
"""Library to the key of what to write for it."""

ASSOCIATIONS = "Rank correlation of importance with drift: over all units; within layers with its interval and p"
AUDIT = "means over prompts in logits: what gradient times drift says of |m_ref - m_cand|"
NO_REFERENCE = "(A second opinion, integrated gradients, needs the reference in the same run: --circuit-against-base.)"

AUDITED = (
    ("degradation", "degradation", "Measured degradation, mean, logits"),
    ("estimate", "estimate", "First-order estimate, mean, logits"),
    ("relative_error", "off by", "First-order estimate, relative error"),
    ("bound", "bound", "First-order bound, mean, logits"),
    ("looseness", "looseness", "Looseness: bound over degradation, median"),
    ("coverage", "bound holds for", "Coverage: prompts within their bound"),
)
INTEGRATED = (
    ("estimate", "integrated", "Integrated gradients, mean, logits"),
    ("relative_error", "off by", "Integrated gradients, relative error"),
)
"""Keys of the audit and of its second opinion, their headings, and what the page calls them."""

SHARES = ("relative_error", "coverage")
"""Those that are percentages."""

UNIT_HEADINGS = ("importance ref", "importance cand", "rank", "drift", "drift of z", "fragility", "repair")


@dataclass(frozen=True)
class Outcome:
    """What became of a whole run.

    Attributes:
        word: PASS, FAIL, INCONCLUSIVE, INCOMPLETE, INTERRUPTED, or NONE where nothing was compared. PASS only if
            everything was compared and passes, in a run that ended and in which nothing else failed.
        counts: verdict to how many have it, but for those that none has.
        missing: how many were expected and not compared.
        expected: how many were expected.
        loosened: how many were held to limits that let in more than the defaults do.
    """

    word: str
    counts: dict[str, int]
    missing: int
    expected: int
    loosened: int = 0

    @property
    def listed(self) -> str:
        """The counts, as in `3 PASS, 1 of 4 not compared`, and what no verdict says."""
        parts = [f"{count} {word}" for word, count in self.counts.items()]
        parts += [f"{self.missing} of {self.expected} not compared"] if parts and self.missing else []
        if self.word == "FAIL" and "FAIL" not in self.counts:
            parts.append("but the run failed: another test, a worker, or a file that could not be written")
        parts += [f"{self.loosened} by loosened limits"] if self.loosened else []
        return ", ".join(parts) or "nothing was compared"


@dataclass(frozen=True)
class Cell:
    """What terminal and Markdown write, the verdict that is marked beside it, and what stands behind the mark."""

    text: str
    word: str = "PASS"
    aside: str = ""

    def marked(self, marks: Mapping[str, str]) -> str:
        """The cell with its mark, which the medium has for each verdict."""
        return self.text + marks[self.word] + self.aside


@dataclass(frozen=True)
class Table:
    """Rows of single runs; each medium puts candidate and task in front.

    Attributes:
        title: in few words.
        caption: what the numbers are.
        headings: of the cells.
        rows: run and cells.
        after: what stands below; may be empty.
    """

    title: str
    caption: str
    headings: tuple[str, ...]
    rows: list[tuple[Entry, tuple[Cell, ...]]]
    after: str = ""


@dataclass(frozen=True)
class UnitRow:
    """One unit of one run.

    Attributes:
        run: the run.
        unit: as the report has it.
        is_broken: whether its importance broke.
    """

    run: Entry
    unit: Mapping[str, Any]
    is_broken: bool

    @property
    def weight(self) -> float:
        """Smaller for what is more telling: how far the importance of a broken unit has moved, else fragility."""
        if self.is_broken:
            return -_moved(self.unit)
        return -(self.unit["fragility"] or 0.0)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Its name, and what stands under `UNIT_HEADINGS`."""
        unit = self.unit
        return (
            Cell(unit["unit"], "FAIL" if self.is_broken else "PASS"),
            Cell(number_interval(unit["importance_ref"])),
            Cell(number_interval(unit["importance_cand"])),
            Cell("-" if unit["rank_ref"] is None else f"{unit['rank_ref']} -> {unit['rank_cand']}"),
            Cell(number(unit["drift"]), "FAIL" if _has_drifted(self.run, unit) else "PASS"),
            Cell(number(unit["drift_z"])),
            Cell(number(unit["fragility"])),
            Cell(number(unit["repair_gain"])),
        )


def outcome(document: Mapping[str, Any]) -> Outcome:
    """The word of a whole run, and what it is made of.

    Args:
        document: a report, of which `runs`, `expected_runs`, `interrupted` and `failed` are read.
    """
    runs, expected = document["runs"], document["expected_runs"]
    found = Counter(run["verdict"] for run in runs)
    missing = expected - len(runs)
    if found["FAIL"]:
        word = "FAIL"
    elif document.get("interrupted"):
        word = "INTERRUPTED"
    elif not runs:
        word = "NONE"
    elif missing:
        word = "INCOMPLETE"
    elif found["INCONCLUSIVE"]:
        word = "INCONCLUSIVE"
    else:
        word = "FAIL" if document.get("failed") else "PASS"
    counts = {one: found[one] for one in ("PASS", "FAIL", "INCONCLUSIVE") if found[one]}
    return Outcome(word, counts, missing, expected, sum(bool(loosened(run)) for run in runs))


def verdict_grid(runs: Sequence[Entry]) -> tuple[list[str], list[tuple[str, list[Entry | None]]]]:
    """Tasks, and for each candidate its run of each of them, or None."""
    tasks = list(dict.fromkeys(map(task_of, runs)))
    found = {(run["candidate"], task_of(run)): run for run in runs}
    candidates = dict.fromkeys(run["candidate"] for run in runs)
    return tasks, [(name, [found.get((name, task)) for task in tasks]) for name in candidates]


def criteria_table(runs: Sequence[Entry]) -> Table:
    """Every criterion of every run, the ranking beside its ceiling, and the diagnosis of repair."""
    headings = [
        criterion.label.replace(",", "") + (" (ceiling)" if criterion.name == "ranking_agreement" else "")
        for criterion in IN_COLUMNS
    ]
    rows = [(run, _criteria(run)) for run in runs]
    return Table("Criteria", "", (*headings, "drift", "diagnosis", "KL, changed"), rows)


def reasons(run: Entry) -> list[str]:
    """Why a run did not pass, a message each; nothing for one that passes."""
    return [text for text in (run["message"], *(criterion["message"] for criterion in run["criteria"])) if text]


def eased(runs: Sequence[Entry]) -> list[tuple[str, list[Entry]]]:
    """Loosened limits with the runs that were held to them; none where it is all of them."""
    return of_whom([(loosened(run), run) for run in runs if loosened(run)], len(runs))


def moved_units(runs: Sequence[Entry]) -> list[tuple[Entry, str]]:
    """Runs of which units are beyond a limit, and which."""
    found = []
    for run in runs:
        broken = [row.unit for row in unit_rows([run]) if row.is_broken]
        drifted = [unit for unit in run["units"] if _has_drifted(run, unit)]
        if broken or drifted:
            facts = [_broken_in_words(broken), *([_drifted_in_words(drifted)] if drifted else [])]
            found.append((run, said_of(run["unit"], "; ".join(facts))))
    return found


def unit_rows(runs: Sequence[Entry]) -> list[UnitRow]:
    """All units: those that broke by how far their importance has moved, then all others by fragility."""
    broken = [(run, frozenset(run["broken"])) for run in runs]
    rows = [UnitRow(run, unit, unit["unit"] in names) for run, names in broken for unit in run["units"]]
    return sorted(rows, key=lambda row: (not row.is_broken, row.weight))


def are_still(rows: Sequence[UnitRow]) -> bool:
    """Whether nothing broke, and no unit has moved by more than the reference itself does."""
    return not any(
        row.is_broken or row.unit["drift"] is None or row.unit["drift"] > row.run["noise_floor"].get("drift", 0.0)
        for row in rows
    )


def associations_table(runs: Sequence[Entry]) -> Table:
    """Importance against drift, of runs in which anything could be correlated."""
    known = [
        (run, run["associations"])
        for run in runs
        if any(found["within_layers"]["value"] is not None for found in (run["associations"] or {}).values())
    ]
    kinds = list(dict.fromkeys(kind for _, found in known for kind in found))
    rows = [(run, tuple(Cell(_association(found.get(kind))) for kind in kinds)) for run, found in known]
    caption = said_of({run["unit"] for run, _ in known}, ASSOCIATIONS)
    return Table("Important and fragile?", caption, tuple(f"importance by {kind}" for kind in kinds), rows)


def audit_table(runs: Sequence[Entry]) -> Table:
    """Degradation beside estimate and bound, of runs in which anything has moved."""
    # What some of many units explain is no bound on the damage.
    moved = [run for run in runs if run["bound"] and run["bound"]["bound"] != 0 and not run.get("population")]
    is_integrated = any(run["bound"]["integrated"] for run in moved)
    rows = []
    for run in moved:
        cells = [_audited(run["bound"], key) for key, *_ in AUDITED]
        holds = Cell(f"{cells[-1].text} of prompts" + (", VIOLATED" if run["bound"]["violated"] else ""))
        second = [_audited(run["bound"]["integrated"], key) for key, *_ in INTEGRATED] if is_integrated else []
        rows.append((run, (*cells[:-1], holds, *second)))
    headings = tuple(heading for _, heading, _ in (*AUDITED, *(INTEGRATED if is_integrated else ())))
    return Table("First-order damage", AUDIT, headings, rows, "" if is_integrated else NO_REFERENCE)


def searches(runs: Sequence[Entry]) -> list[tuple[Entry, bool, str]]:
    """What was found by those runs that looked further, and whether it holds for all tasks of the candidate."""
    found, searched = [], set()
    for run in runs:
        other, keep = run["multiverse"], run["keep"]
        if other is not None:
            flipped = [row for row in other["specifications"] if row["verdict"] != run["verdict"]]
            named = f" ({', '.join(map(_specification, flipped))})" if flipped else ""
            flips = f"the verdict flips under {other['flips']} of {other['of']} specifications{named}"
            found.append((run, False, flips))
        if keep is not None and run["candidate"] not in searched:
            searched.add(run["candidate"])
            found.append((run, True, _keep_list(keep)))
    return found


def noted(runs: Sequence[Entry]) -> list[tuple[str, list[Entry]]]:
    """Each note with the runs that it is of; none where it is of all of them."""
    return of_whom([(note, run) for run in runs for note in run.get("notes") or ()], len(runs))


def of_whom(said: Iterable[tuple[str, Entry]], count: int) -> list[tuple[str, list[Entry]]]:
    """Each text once, with the runs that it is said of; with none where it is said of all.

    Args:
        said: text and run.
        count: how many runs there are.
    """
    found: dict[str, list[Entry]] = {}
    for text, run in said:
        found.setdefault(text, []).append(run)
    return [(text, [] if len(of) == count else of) for text, of in found.items()]


def drift_limit(run: Mapping[str, Any]) -> float | None:
    """The largest drift that a unit may have; where it is held against rounding, so many times the median unit's."""
    fixed, times = limit(run, "drift_largest"), limit(run, "excess_unit")
    if fixed is not None or times is None:
        return fixed
    pairs = zip((unit["drift"] for unit in run["units"]), run["excess"]["units"], strict=True)
    ratios = [drift / excess for drift, excess in pairs if drift is not None and excess]
    return median(ratios) * times if ratios else None


def limit(run: Mapping[str, Any], name: str) -> float | None:
    """The limit of a criterion of a run; None where it has none."""
    return next((row["limit"] for row in run.get("criteria", ()) if row["name"] == name), None)


def _criteria(run: Entry) -> tuple[Cell, ...]:
    found = {criterion["name"]: criterion for criterion in run["criteria"]}
    ceiling = run["ranking"]["ceiling"] if run["ranking"] else None
    asides = {} if ceiling is None else {"ranking_agreement": f" ({number(ceiling)})"}
    cells = [
        Cell(number(found[name]["value"]["value"]), found[name]["verdict"], asides.get(name, ""))
        if name in found
        else Cell("-")
        for name in (criterion.name for criterion in IN_COLUMNS)
    ]
    known = [run.get(name) for name in ("kl_divergence", "changed_answers")]
    beside = " ".join(number(one["value"]) for one in known if one)
    diagnosis = run["repair"]["diagnosis"] if run["repair"] else "-"
    return (*cells, _drift(found), Cell(diagnosis), Cell(beside or "-"))


def _drift(found: Mapping[str, Mapping[str, Any]]) -> Cell:
    """All that is held of drift in one cell, with the worst of their marks."""
    held = [found[criterion.name] for criterion in CRITERIA if criterion.test == DRIFT and criterion.name in found]
    times = "x" if any(criterion["name"].startswith("excess") for criterion in held) else ""
    text = " ".join(number(criterion["value"]["value"]) + times for criterion in held)
    return Cell(text or "-", worst(criterion["verdict"] for criterion in held))


def _broken_in_words(units: Sequence[Mapping[str, Any]]) -> str:
    listed = ", ".join(
        f"{unit['unit']} ({number(unit['importance_ref']['value'])} -> {number(unit['importance_cand']['value'])})"
        for unit in units[:LISTED]
    )
    more = f" and {len(units) - LISTED} more" if len(units) > LISTED else ""
    return f"BROKEN UNITS {listed}{more}" if units else "no unit's importance broke"


def _drifted_in_words(units: Sequence[Mapping[str, Any]]) -> str:
    most = max(units, key=lambda unit: float("inf") if unit["drift"] is None else unit["drift"])
    return (
        f"drift beyond its limit in {len(units)} unit(s), first in layer {units[0]['layer']}, "
        f"most in {most['unit']} ({number(most['drift'])})"
    )


def _moved(unit: Mapping[str, Any]) -> float:
    change = unit["importance_change"]["value"]
    return float("inf") if change is None else abs(change)


def _has_drifted(run: Entry, unit: Mapping[str, Any]) -> bool:
    """Whether the unit's drift is beyond the limit on the largest drift; a drift that is undefined is."""
    times = limit(run, "excess_unit")
    if times is not None:
        place = next(place for place, one in enumerate(run["units"]) if one["unit"] == unit["unit"])
        excess = run["excess"]["units"][place]
        return excess is None or excess > times
    most = limit(run, "drift_largest")
    return most is not None and (unit["drift"] is None or unit["drift"] > most)


def _association(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    within, p = number_interval(found["within_layers"]), number(found["p_within_layers"])
    return f"{number(found['raw']['value'])}; {within} p {p}"


def _audited(bound: Mapping[str, Any] | None, key: str) -> Cell:
    value = None if bound is None else bound[key]
    return Cell(share(value) if key in SHARES else number(value))


def _specification(row: Mapping[str, Any]) -> str:
    """A specification's verdict, with the reason of one that could not be measured."""
    shown = f"{row['ablation']}/{row['metric']}/{row['ablate_at']}: {row['verdict']}"
    return f"{shown}, not measured: {row['message']}" if row.get("message") else shown


def _keep_list(keep: Mapping[str, Any]) -> str:
    if keep["message"]:
        return f"no keep list: {keep['message']}"
    opening = f"{keep['verdict']} with {len(keep['modules'])} module(s) in high precision, re-measured so:"
    return "\n".join([opening, *(f"  {name}: {keep[key]}" for name, key in LIBRARIES.items() if keep.get(key))])
