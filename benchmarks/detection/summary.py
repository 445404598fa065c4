"""From rows to the figures of a benchmark: red candidates by truth and bits, areas, and what was missed and why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from scipy.stats import binomtest

from circuitcheck.stats.estimate import Estimate
from detection.detectors import OURS, OUTPUTS, TASKS
from detection.evaluate import Row
from detection.roc import matched_pairs, roc_area

FAULTS = ("material", "subtle")
"""What a gate has to catch; `minor` ones and no-ops are counted apart."""

TARGETS = {
    ("benign", "32"): ("<=", 0.02),
    ("benign", "16"): ("<=", 0.02),
    ("benign", "8"): ("<=", 0.02),
    ("benign", "4"): ("<=", 0.05),
    ("material", "all"): (">=", 0.98),
    ("subtle", "8"): (">=", 0.75),
    ("subtle", "4"): (">=", 0.65),
}
"""Truth and bits to what the red share is to be, on the half that nothing was chosen on."""

AREA = 0.95
"""What the area on matched pairs is to be at least."""


def bits(precision: str) -> str:
    """Bits of a weight of a precision, which all names say."""
    return "".join(filter(str.isdigit, precision))


def is_red(row: Row) -> bool:
    """Whether the gate does not let it pass; what it cannot decide counts."""
    return row.word != "PASS"


def part_of(rows: Iterable[Row], half: str) -> list[Row]:
    """Rows of one half: `choose`, or `report`, where model or family or both are new."""
    return [row for row in rows if (row.half == "choose") == (half == "choose")]


def red_shares(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For every truth and number of bits, and all bits together, how many there are and how many are red.

    Returns:
        Tables of `truth`, `bits`, `candidates`, `red`, `inconclusive`, `refused`, `share` with its interval (Wilson's,
        at 95 %), and where there is one the target and whether it is reached.
    """
    tables = []
    for truth in sorted({row.truth for row in rows}):
        of_truth = [row for row in rows if row.truth == truth]
        groups = {"all": of_truth}
        for row in of_truth:
            groups.setdefault(bits(row.precision), []).append(row)
        tables += [_red_share(truth, number, some) for number, some in sorted(groups.items())]
    return tables


def _red_share(truth: str, number: str, rows: Sequence[Row]) -> dict[str, Any]:
    red = [row for row in rows if is_red(row)]
    interval = binomtest(len(red), len(rows)).proportion_ci(method="wilson")
    share = len(red) / len(rows)
    table: dict[str, Any] = {
        "truth": truth,
        "bits": number,
        "candidates": len(rows),
        "red": len(red),
        "inconclusive": sum(row.word == "INCONCLUSIVE" for row in red),
        "refused": sum(row.word == "REFUSED" for row in red),
        "share": share,
        "low": float(interval.low),
        "high": float(interval.high),
    }
    if (truth, number) in TARGETS:
        sign, target = TARGETS[truth, number]
        table |= {"target": f"{sign} {target:g}", "reached": share <= target if sign == "<=" else share >= target}
    return table


def detectors(rows: Sequence[Row]) -> list[str]:
    """Ours, our criteria, and those that people use today."""
    criteria = sorted({name for row in rows for name in row.scores} - {OURS, *OUTPUTS, *TASKS})
    return [OURS, *criteria, *OUTPUTS, *TASKS]


def matched(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Pairs of a benign candidate and a fault of one model, task and number of bits, of equal KL divergence."""
    benign = [row for row in rows if row.truth == "benign"]
    faults = [row for row in rows if row.truth in FAULTS]
    places = matched_pairs(
        [row.scores["kl"] for row in benign],
        [row.scores["kl"] for row in faults],
        [_group(row) for row in benign],
        [_group(row) for row in faults],
    )
    return [(benign[one], faults[other]) for one, other in places]


def _group(row: Row) -> tuple[str, str, str]:
    return row.model, row.task, bits(row.precision)


def areas(rows: Sequence[Row]) -> dict[str, Estimate]:
    """Detector to area on matched pairs; empty where there are none."""
    pairs = matched(rows)
    if not pairs:
        return {}
    return {
        name: roc_area([score(one, name) for one, _ in pairs], [score(other, name) for _, other in pairs])
        for name in detectors(rows)
    }


def score(row: Row, name: str) -> float:
    """A row's score; what a refused candidate lacks is infinite, and what has no value for any other reason, lowest."""
    value = row.scores.get(name, math.inf if row.word == "REFUSED" else -math.inf)
    return math.inf if math.isnan(value) else value


def false_alarms(rows: Sequence[Row]) -> Counter[tuple[str, str, str]]:
    """Bits, verdict and the criteria that are red, of benign candidates that do not pass."""
    return Counter(
        (bits(row.precision), row.word, ", ".join(row.red) if row.word != "REFUSED" else "refused")
        for row in rows
        if row.truth == "benign" and is_red(row)
    )


def by_family(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For every truth and family how many there are and how many pass, and by model how many of those."""
    tables = []
    for truth, family in sorted({(row.truth, row.family) for row in rows}):
        some = [row for row in rows if (row.truth, row.family) == (truth, family)]
        passed = Counter(row.model for row in some if not is_red(row))
        tables.append(
            {
                "truth": truth,
                "family": family,
                "candidates": len(some),
                "passed": passed.total(),
                "where": dict(sorted(passed.items())),
            }
        )
    return tables


def by_place(rows: Sequence[Row], place: str) -> dict[str, dict[str, str]]:
    """Red ones of all, such as `3/20`, by truth and bits, for each value of a field of the rows such as `model`."""
    tables = {}
    for value in sorted({getattr(row, place) for row in rows}):
        shares = red_shares([row for row in rows if getattr(row, place) == value])
        tables[value] = {f"{one['truth']} {one['bits']}": f"{one['red']}/{one['candidates']}" for one in shares}
    return tables


def summarize(rows: Sequence[Row]) -> dict[str, Any]:
    """All figures of both halves, as plain data."""
    summary = {}
    for half in ("choose", "report"):
        some = part_of(rows, half)
        if not some:
            continue
        summary[half] = {
            "red": red_shares(some),
            "pairs": len(matched(some)),
            "areas": {name: [area.value, area.low, area.high] for name, area in areas(some).items()},
            "false_alarms": [[*cause, count] for cause, count in false_alarms(some).most_common()],
            "families": by_family(some),
            "by_model": by_place(some, "model"),
            "by_what_is_new": by_place(some, "half"),
        }
    return summary
