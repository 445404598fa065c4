"""`--circuit-multiverse`: the same verdict under every specification."""

from __future__ import annotations

from itertools import product

import pytest
from gate_runner import Gate

from circuitcheck.core.errors import CandidateError
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.diagnostics.multiverse import multiverse, specifications

ALL = set(product(("resample", "mean", "zero"), ("logit_difference", "log_probability"), ("answer", "all")))


def choices(spec: MeasurementSpec) -> tuple[str, str, str]:
    return spec.ablation, spec.metric, spec.ablate_at


def test_twelve_specifications_that_differ_in_these_choices_only():
    spec = MeasurementSpec(part=7, seed=3)
    found = list(specifications(spec))
    assert {choices(other) for other in found} == ALL
    assert len(found) == 12
    assert all((other.part, other.seed) == (7, 3) for other in found)


def test_flips_are_verdicts_other_than_the_gates():
    asked = []

    def judge_under(spec: MeasurementSpec) -> str:
        asked.append(choices(spec))
        if spec.ablation == "zero" and spec.ablate_at == "answer":
            return "FAIL"
        if spec.ablation == "mean" and spec.metric == "log_probability":
            raise CandidateError("it overflows")
        return "PASS"

    result = multiverse(MeasurementSpec(), "PASS", judge_under)
    assert (result["flips"], result["of"]) == (4, 12)
    # The gate's own verdict is known already.
    assert set(asked) == ALL - {choices(MeasurementSpec())}
    failed = [row for row in result["specifications"] if row["message"]]
    assert [(row["verdict"], row["message"]) for row in failed] == [("FAIL", "it overflows")] * 2


def test_the_report_counts_the_flips(gate: Gate) -> None:
    result = gate.run("--circuit-multiverse", "--circuit-report-dir", "out")
    (run,) = gate.report()["runs"]
    rows = run["multiverse"]["specifications"]
    assert {(row["ablation"], row["metric"], row["ablate_at"]) for row in rows} == ALL
    assert {row["verdict"] for row in rows} <= {"PASS", "FAIL", "INCONCLUSIVE"}
    gates = next(row for row in rows if choices(MeasurementSpec()) == tuple(row[key] for key in row if key in KEYS))
    assert gates["verdict"] == run["verdict"]
    assert run["multiverse"]["flips"] == sum(row["verdict"] != run["verdict"] for row in rows)
    result.stdout.fnmatch_lines(["*f16-ioi*flips under * of 12 specifications*"])


KEYS = ("ablation", "metric", "ablate_at")


def test_without_the_option_it_is_not_measured(gate: Gate) -> None:
    assert gate.run("--circuit-report-dir", "out").ret == pytest.ExitCode.OK
    assert gate.report()["runs"][0]["multiverse"] is None
