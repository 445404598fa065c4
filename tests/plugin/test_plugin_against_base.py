"""`--circuit-against-base`: the reference is measured in the same run."""

from __future__ import annotations

import pytest
from gate_folder import random_model, save_model
from gate_runner import Gate


def test_no_stored_baseline_is_needed_and_none_is_written(gate: Gate) -> None:
    gate.remove_baseline()
    before = gate.stored()
    result = gate.run("--circuit-against-base", "--circuit-report-dir", "out")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=4)
    assert gate.stored() == before
    (run,) = gate.report()["runs"]
    assert any("measured in this run" in note for note in run["notes"])


def test_it_gives_the_same_numbers_as_the_stored_baseline(gate: Gate) -> None:
    gate.run("--circuit-report-dir", "stored")
    gate.run("--circuit-against-base", "--circuit-report-dir", "base")
    stored, base = (gate.report(name)["runs"][0] for name in ("stored", "base"))
    assert stored["criteria"] == base["criteria"]
    assert [unit["importance_ref"] for unit in stored["units"]] == [unit["importance_ref"] for unit in base["units"]]


def test_another_specification_needs_no_new_baseline(gate: Gate) -> None:
    assert gate.run("--circuit-report", "--circuit-ablation=zero").ret == pytest.ExitCode.TESTS_FAILED
    result = gate.run("--circuit-report", "--circuit-ablation=zero", "--circuit-against-base")
    assert result.ret == pytest.ExitCode.OK


def test_a_reference_that_nobody_accepted_is_refused(gate: Gate) -> None:
    save_model(random_model(seed=1), gate.model)
    result = gate.run("--circuit-against-base", "--circuit-report")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*is not the one that was accepted for 'ioi'*", "*--circuit-accept=changed*"])


def test_workers_share_what_one_of_them_measured_of_the_reference(gate: Gate) -> None:
    gate.configure(candidates=["f16", "int8-sim"], tasks=["ioi.jsonl", "facts.jsonl"])
    (gate.path / "conftest.py").write_text(
        "from pathlib import Path\nimport pytest\n\n"
        "@pytest.fixture(scope='session', autouse=True)\n"
        "def counted():\n"
        "    from circuitcheck.gate import record as module\n"
        "    from circuitcheck.runtimes.pytorch import hooked, roundings\n"
        "    real = module.record_reference\n"
        "    def record(model, task, *arguments, **options):\n"
        "        with Path('recorded.txt').open('a') as log:\n"
        "            log.write(task.name + '\\n')\n"
        "        return real(model, task, *arguments, **options)\n"
        "    with pytest.MonkeyPatch.context() as patch:\n"
        "        patch.setattr(module, 'record_reference', record)\n"
        "        patch.setattr(hooked, 'WAYS', roundings.WAYS[:2])  # in workers, too\n"
        "        yield\n"
    )
    gate.run("--circuit-against-base", "--circuit-report-dir", "parallel", "-n2")
    assert sorted((gate.path / "recorded.txt").read_text().split()) == ["facts", "ioi"]
    gate.run("--circuit-against-base", "--circuit-report-dir", "serial")
    files = [gate.path / name / "report.json" for name in ("parallel", "serial")]
    assert files[0].read_bytes() == files[1].read_bytes()
