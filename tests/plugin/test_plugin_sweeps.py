"""--circuit-sweep, --circuit-memory, --circuit-device and --circuit-dtype."""

from __future__ import annotations

import pytest
import torch
from gate_runner import Gate

from circuitcheck.plugin.files import run_document
from circuitcheck.plugin.settings import Settings, parse_bytes


def test_a_baseline_of_another_sweep_is_stale(gate: Gate) -> None:
    result = gate.run("--circuit-sweep=screened")
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        [
            "*measurement spec, sweep: recorded exact, now screened",
            "  To accept the present reference instead: pytest --circuit-sweep=screened --circuit-accept=changed *",
        ]
    )


def test_a_screened_baseline_says_what_it_may_have_missed(gate: Gate) -> None:
    gate.run("--circuit-sweep=screened", "--circuit-accept=changed", "--circuit-reason=many heads")
    result = gate.run("--circuit-sweep=screened", "--circuit-report-dir=out")
    result.assert_outcomes(passed=4)
    (note,) = [note for note in gate.report()["runs"][0]["notes"] if note.startswith("screened sweep")]
    assert "4 of 4 heads were measured, 1 by their gradient and 3 at random; among the 0 others 0.0" in note


def test_a_budget_that_one_row_does_not_fit_is_a_failure_that_says_so(gate: Gate) -> None:
    result = gate.run("--circuit-memory=1K", "--circuit-report")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*one prompt of 6 tokens needs about * bytes beside the model*1,024 bytes*"])


def test_a_small_budget_changes_no_verdict(gate: Gate) -> None:
    gate.run("--circuit-report-dir=roomy")
    gate.run("--circuit-report-dir=tight", "--circuit-memory=30K").assert_outcomes(passed=4)
    roomy, tight = (gate.report(name)["runs"][0] for name in ("roomy", "tight"))
    for one, other in zip(roomy["units"], tight["units"], strict=True):
        # Other batch shapes: float16 kernels may round once more or less, of logits up to 32.
        assert one["importance_cand"]["value"] == pytest.approx(other["importance_cand"]["value"], abs=32 * 2**-10)


@pytest.mark.parametrize("text", ["", "0", "-1G", "2 apples", "GB", "1e9"])
def test_no_amount_of_memory(gate: Gate, text: str) -> None:
    gate.configure(memory=text)
    if text:
        result = gate.run("--circuit-report")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*memory is '{text}', but must be an amount such as 800M or 2GB."])
    with pytest.raises(ValueError, match="such as 800M or 2GB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "size"), [("4096", 4096), ("2K", 2048), ("3 MB", 3 * 2**20), ("1.5GiB", 3 * 2**29), ("1t", 2**40)]
)
def test_amounts_of_memory(text: str, size: int) -> None:
    assert parse_bytes(text) == size


def test_a_device_that_is_not_there(gate: Gate) -> None:
    name = "cuda:99" if torch.cuda.is_available() else "cuda"
    result = gate.run(f"--circuit-device={name}", "--circuit-report")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"*device '{name}' cannot be used here*"])


@pytest.mark.parametrize(("asked", "named"), [("meta", "meta"), ("cpu", "cpu"), ("abacus", "abacus")])
def test_the_report_names_the_device_that_was_asked_for(asked: str, named: str) -> None:
    """`meta` stands for an accelerator; what is not there is called by the name that it was asked for by."""
    assert run_document(Settings(device=asked), [], 0)["environment"]["device"] == named


def test_the_device_is_in_the_report(gate: Gate) -> None:
    gate.run("--circuit-device=cpu", "--circuit-report-dir=out").assert_outcomes(passed=4)
    assert gate.report()["environment"]["device"] == "cpu"


def test_saved_candidates_are_loaded_in_the_type_asked_for(gate: Gate) -> None:
    candidate = f"--circuit-candidate={gate.model}"
    gate.run(candidate, "--circuit-report-dir=out")
    assert gate.report()["runs"][0]["precision"] == "f32"
    gate.run(candidate, "--circuit-report-dir=out", "--circuit-dtype=bf16")
    assert gate.report()["runs"][0]["precision"] == "bf16"
