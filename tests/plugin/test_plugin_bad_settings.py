"""Faults in [tool.circuitcheck] are usage errors that name file, key and way out."""

from __future__ import annotations

from typing import Any

import pytest
from gate_runner import Gate

LIMITS = "profile_distance, ranking_agreement, behaviour_kept, *"


def assert_refused(gate: Gate, message: str, *arguments: str) -> None:
    result = gate.run("--circuit-report", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: circuitcheck: {message}"])
    result.stdout.no_fnmatch_line("*test session starts*")


def test_unknown_keys(gate: Gate) -> None:
    gate.configure(candidate=["f16"], report_directory="out")
    assert_refused(
        gate,
        f"[[]tool.circuitcheck[]] in {gate.path}/pyproject.toml: unknown key(s) candidate, report-directory; known are "
        "report, report-dir, figures, model, candidates, *",
    )


@pytest.mark.parametrize(
    ("key", "value", "needed"),
    [
        ("report", "yes", "true or false"),
        ("report_dir", 3, "a string"),
        ("model", ["model"], "a string"),
        ("candidates", "f16", "a list of strings"),
        ("candidates", [16], "a list of strings"),
        ("tasks", "ioi.jsonl", "a list of strings"),
        ("baselines", True, "a string"),
        ("prompts", "64", "a number"),
        ("prompts", True, "a number"),
        ("prompts", 6.5, "a number"),
        ("ablation", 0, "a string"),
        ("allow_inconclusive", 1, "true or false"),
        ("limits", 0.5, "a table"),
    ],
)
def test_wrong_types(gate: Gate, key: str, value: Any, needed: str) -> None:
    gate.configure(**{key: value})
    name = key.replace("_", "-")
    assert_refused(gate, f"[[]tool.circuitcheck[]] in *pyproject.toml: {name} is *, but must be {needed}.")


@pytest.mark.parametrize(
    ("key", "value", "needed"),
    [
        ("ablation", "knockout", "one of resample, mean, zero"),
        ("positions", "last", "one of all, answer"),
        ("sweep", "quick", "one of exact, screened"),
        ("dtype", "int8", "one of auto, f32, f16, bf16"),
        ("memory", "lots", "an amount such as 800M or 2GB"),
        ("memory", "0", "an amount such as 800M or 2GB"),
        ("prompts", 0, "at least 1"),
        ("part", -1, "at least 1"),
        ("metric", "logits", "logit_difference, log_probability, or package.module:function"),
    ],
)
def test_values_that_nothing_knows(gate: Gate, key: str, value: Any, needed: str) -> None:
    gate.configure(**{key: value})
    assert_refused(gate, f"{key} is {value!r}, but must be {needed}.")


def test_a_kind_of_unit_that_nothing_knows(gate: Gate) -> None:
    gate.configure(units=["head", "neurone"])
    assert_refused(gate, "units is ('head', 'neurone'), but must be one of head, block, neuron, or feature:PATH.")


def test_the_same_kind_of_unit_twice(gate: Gate) -> None:
    assert_refused(gate, "units head: given twice, *", "--circuit-unit=head", "--circuit-unit=head")


def test_settings_that_no_measurement_can_combine(gate: Gate) -> None:
    gate.configure(metric="metrics:f", positions="answer")
    assert_refused(gate, "metric metrics:f is a function of the whole output, so that the answer position *")


@pytest.mark.parametrize("key", ["candidates", "tasks", "units"])
def test_empty_lists(gate: Gate, key: str) -> None:
    gate.configure(**{key: []})
    assert_refused(gate, f"no {key} are given, so nothing could be compared.")


def test_no_table(gate: Gate) -> None:
    gate.write_pyproject("[tool]\ncircuitcheck = 3\n")
    assert_refused(gate, "tool.circuitcheck in *pyproject.toml is 3, but must be a table: [[]tool.circuitcheck[]].")


def test_invalid_toml(gate: Gate) -> None:
    """pytest reads it first, and says so."""
    gate.write_pyproject("[tool.circuitcheck\n")
    result = gate.run("--circuit-report")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *pyproject.toml: *"])


def test_invalid_toml_where_pytest_has_a_file_of_its_own(gate: Gate) -> None:
    gate.write_pyproject("[tool.circuitcheck\n")
    (gate.path / "pytest.ini").write_text("[pytest]\n")
    assert_refused(gate, f"{gate.path}/pyproject.toml is not valid TOML: *", "-c", "pytest.ini")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"drift_medain": 0.1}, f"drift_medain: there is no such limit; known are {LIMITS}"),
        ({"f16": {"drift_medain": 0.1}}, f"f16.drift_medain: there is no such limit; known are {LIMITS}"),
        ({"f16": {"ioi": {"drft": 0.1}}}, f"f16.ioi.drft: there is no such limit; known are {LIMITS}"),
        ({"drift_median": "0.1"}, "drift_median is '0.1', but must be a number from 0 up."),
        ({"drift_median": True}, "drift_median is True, but must be a number from 0 up."),
        ({"drift_median": -0.1}, "drift_median is -0.1, but must be a number from 0 up."),
        ({"drift_median": [0.1]}, "drift_median is [[]0.1[]], but must be a number from 0 up."),
        ({"drift_median": {"f16": 0.1}}, "drift_median is a table, but must be a number."),
        ({"f61": {"drift_median": 0.1}}, "f61: there is no such precision; known are f32, *, f16, *, int4-rtn, *"),
    ],
)
def test_limits_of_the_wrong_type_or_name(gate: Gate, limits: dict[str, Any], message: str) -> None:
    gate.configure(limits=limits)
    assert_refused(gate, f"[[]tool.circuitcheck[]] limits.{message}")


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_limits_that_are_no_number(gate: Gate, value: str) -> None:
    """TOML can write both."""
    gate.write_pyproject(f'[tool.circuitcheck]\nmodel = "model"\nlimits = {{drift_median = {value}}}\n')
    assert_refused(gate, f"[[]tool.circuitcheck[]] limits.drift_median is {value}, but must be a number from 0 up.")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"drift_median": 0.0}, "drift_median = 0 is not above the noise floor *e-07"),
        ({"profile_distance": 1e-8}, "profile_distance = 1e-08 is not above the noise floor *e-07"),
        ({"ranking_agreement": 1.5}, "ranking_agreement = 1.5 is above the reference's own 1"),
    ],
)
def test_limits_that_the_reference_itself_would_miss(gate: Gate, limits: dict[str, float], message: str) -> None:
    """The noise floor stands in the baseline, so this is known when that has been read."""
    gate.configure(limits=limits)
    result = gate.run("--circuit-report")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines([f"f16-ioi: limits for f16 on task 'ioi' cannot be judged, *: {message}*"])
