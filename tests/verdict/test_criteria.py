"""The table of criteria: each is held by a test of the suite, and the pages that people read say the same."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import get_args

import pytest

import circuitcheck.suite
from circuitcheck.verdict.criteria import BY_NAME, CRITERIA, SuiteTest, criteria_for, names_of
from circuitcheck.verdict.limits import DRIFT_LIMITS

REPOSITORY = Path(__file__).parents[2]
RELATIONS = {"<=": "at most", ">=": "at least"}


def test_names_are_given_once():
    assert len(BY_NAME) == len(CRITERIA)


class Recorder:
    """Stands for the suite's fixture, and notes what is checked."""

    def __init__(self) -> None:
        self.checked: list[str] = []

    def check(self, *names: str) -> None:
        assert names, "no names are all criteria"
        self.checked += names


def test_the_suite_checks_every_criterion_once():
    """One that no test names would decide nothing without --circuit-report."""
    recorder = Recorder()
    found = [module.name for module in iter_modules(circuitcheck.suite.__path__)]
    assert sorted(found) == sorted(f"test_{name}" for name in get_args(SuiteTest))
    for name in found:
        getattr(import_module(f"circuitcheck.suite.{name}"), name)(recorder)
    assert sorted(recorder.checked) == sorted(BY_NAME)


def test_criterion_that_no_test_holds_cannot_be_made():
    with pytest.raises(ValueError, match="criterion recovery: no test of the suite is called 'repair'"):
        replace(BY_NAME["recovery"], test="repair")


def test_what_tests_hold_does_not_depend_on_the_metric():
    for metric in ("logit_difference", "log_probability", "package.module:function"):
        assert [(one.name, one.test) for one in criteria_for(metric)] == [(one.name, one.test) for one in CRITERIA]
    assert names_of("drift") == (
        "excess",
        "excess_layer",
        "excess_unit",
        "features_surviving",
        "drift_median",
        "drift_largest",
    )
    assert criteria_for("package.module:function") == CRITERIA


def rows(page: str) -> list[list[str]]:
    """The cells of every row of every table."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda criterion: criterion.name)
def test_readme_has_a_row_with_label_and_limit(criterion):
    (row,) = (row for row in rows("README.md") if row[0] == criterion.label)
    expected = f"{RELATIONS[criterion.relation]} "
    expected += "what the precision explains" if criterion.limit is None else f"{criterion.limit:g}"
    (own,) = (one for one in criteria_for("log_probability") if one.name == criterion.name)
    if own.unit != criterion.unit:
        expected += f"; {own.limit:g} {own.unit}"
    assert row[-1] == expected


def test_docs_list_every_criterion_of_a_report():
    (row,) = (row for row in rows("docs/report.md") if row[0] == "`runs[].criteria[].name`")
    assert set(re.findall(r"`(\w+)`", row[-1])) == set(BY_NAME)


def test_docs_list_the_limits_of_every_precision():
    expected = [
        [f"`{name}`", ", ".join(f"`{spec}`" for spec in drift.specs) or "-", f"{drift.median:g}", f"{drift.largest:g}"]
        for name, drift in DRIFT_LIMITS.items()
    ]
    table = rows("docs/quantization.md")
    start = table.index(["precision", "holds for", "drift, median", "drift, largest"])
    assert table[start + 2 : start + 2 + len(expected)] == expected
