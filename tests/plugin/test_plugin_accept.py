"""`--circuit-accept`: which baselines it writes, and what it says of them."""

from __future__ import annotations

import json

import pytest
import torch
from gate_folder import random_model, save_model
from gate_runner import Gate, without_hashes

from circuitcheck import Baseline

WHY = ("--circuit-reason", "retrained")
BOTH = ["ioi.jsonl", "facts.jsonl"]


@pytest.fixture
def two_tasks(gate: Gate) -> Gate:
    """One with a baseline, and one without."""
    gate.configure(tasks=BOTH)
    gate.remove_baseline("facts")
    return gate


def change_weights(gate: Gate) -> None:
    """Switches off head 1 of layer 0: its columns of the output projection become 0."""
    module = random_model()
    with torch.no_grad():
        module.gpt_neox.layers[0].attention.dense.weight[:, 8:] = 0
    save_model(module, gate.model)


def written(gate: Gate, before: dict[str, bytes]) -> set[str]:
    """Names of the files that were added or changed; what they replace is gone."""
    after = gate.stored()
    assert set(without_hashes(before)) <= set(without_hashes(after))
    assert len(set(without_hashes(after))) == len(after)
    return set(without_hashes(name for name, content in after.items() if before.get(name) != content))


def test_new_records_what_is_missing_and_leaves_the_rest(two_tasks: Gate) -> None:
    change_weights(two_tasks)
    before = two_tasks.stored()
    result = two_tasks.run("--circuit-accept=new", *WHY)
    assert result.ret == pytest.ExitCode.OK
    assert written(two_tasks, before) == {"model/facts.json", "model/facts.safetensors"}
    result.stdout.fnmatch_lines(
        [
            "ioi: left alone: *baselines/model/ioi.json exists (use --circuit-accept=changed to replace it)",
            "facts: accepted: *baselines/model/facts.json (retrained)",
            "  solves 40 of 40 prompts",
            "  most important heads, in logits: *",
            "Nothing was compared in this run.",
        ]
    )


def test_changed_replaces_what_differs_and_records_nothing_new(two_tasks: Gate) -> None:
    change_weights(two_tasks)
    before = two_tasks.stored()
    result = two_tasks.run("--circuit-accept=changed", *WHY)
    assert result.ret == pytest.ExitCode.OK
    assert written(two_tasks, before) == {"model/ioi.json", "model/ioi.safetensors"}
    result.stdout.fnmatch_lines(
        [
            "ioi: accepted: *baselines/model/ioi.json (retrained)",
            "facts: left alone: *baselines/model/facts.json does not exist (use --circuit-accept=new to record it)",
        ]
    )


def test_all_does_both(two_tasks: Gate) -> None:
    change_weights(two_tasks)
    before = two_tasks.stored()
    result = two_tasks.run("--circuit-accept=all", *WHY)
    assert result.ret == pytest.ExitCode.OK
    assert written(two_tasks, before) == {f"model/{name}.{end}" for name in ("ioi", "facts") for end in ENDS}


ENDS = ("json", "safetensors")


def test_what_was_accepted_passes_with_its_reason(two_tasks: Gate) -> None:
    change_weights(two_tasks)
    two_tasks.configure(candidates=["f32"], tasks=BOTH)
    assert two_tasks.run("--circuit-report").ret == pytest.ExitCode.TESTS_FAILED
    two_tasks.run("--circuit-accept=all", *WHY)
    assert two_tasks.run("--circuit-report").ret == pytest.ExitCode.OK
    for task in ("ioi", "facts"):
        assert Baseline.load(two_tasks.baselines / f"{task}.json").reason == "retrained"
        assert json.loads((two_tasks.baselines / f"{task}.json").read_text())["reason"] == "retrained"


@pytest.mark.parametrize("kind", ["changed", "all"])
def test_what_is_unchanged_keeps_its_bytes_and_its_reason(gate: Gate, kind: str) -> None:
    before = gate.stored()
    result = gate.run(f"--circuit-accept={kind}", *WHY)
    assert result.ret == pytest.ExitCode.OK
    assert gate.stored() == before
    result.stdout.fnmatch_lines(["ioi: unchanged: *baselines/model/ioi.json"])


def test_same_input_same_bytes(gate: Gate) -> None:
    before = gate.stored()
    gate.remove_baseline()
    gate.run("--circuit-accept=new", "--circuit-reason", "first recording")
    assert gate.stored() == before


def test_tests_are_skipped_and_never_passed(gate: Gate) -> None:
    gate.configure(candidates=["f16", "bf16"], tasks=BOTH)
    result = gate.run("--circuit-accept=all", *WHY, "-rs")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(skipped=16)
    result.stdout.fnmatch_lines(
        [
            "*golden baselines*",
            "Nothing was compared in this run.",
            "SKIPPED*accepting, nothing was compared; ioi: unchanged*",
        ]
    )
    result.stdout.no_fnmatch_line("*circuit gate*")


def test_accepting_with_a_report_reports_nothing(gate: Gate) -> None:
    """A run compares or accepts; one that accepts leaves no report that could be taken for a green one."""
    result = gate.run("--circuit-accept=all", *WHY, "--circuit-report-dir", "out")
    result.assert_outcomes(skipped=4)
    result.stdout.no_fnmatch_line("*circuit gate*")
    assert not (gate.path / "out").exists()


def test_the_diff_says_which_heads_moved_and_what_the_verdict_would_have_been(gate: Gate) -> None:
    change_weights(gate)
    result = gate.run("--circuit-accept=changed", *WHY)
    result.stdout.fnmatch_lines(
        [
            "ioi: accepted: *",
            "  weights: ???????????? -> ????????????",
            "  head 0.1: importance 0.642 -> 0.000 logits",
            "  judged by the old baseline, the new reference would have been FAIL: *drift_*(limit *)*",
        ]
    )


def test_the_diff_of_a_corrupt_baseline_says_what_was_wrong_with_it(gate: Gate) -> None:
    file = gate.baselines / "ioi.json"
    file.write_bytes(file.read_bytes()[:-100])
    result = gate.run("--circuit-accept=changed", *WHY)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["ioi: accepted: *", "  the old baseline could not be read: *truncated or corrupt*"])
    assert gate.run("--circuit-report").ret == pytest.ExitCode.OK


def test_only_the_selected_tasks_are_accepted(two_tasks: Gate) -> None:
    two_tasks.remove_baseline("ioi")
    result = two_tasks.run("--circuit-accept=new", *WHY, "-k", "facts")
    assert result.ret == pytest.ExitCode.OK
    assert without_hashes(two_tasks.stored()) == ["model/facts.json", "model/facts.safetensors"]


def test_what_is_accepted_names_the_kind_of_unit(gate: Gate) -> None:
    result = gate.run("--circuit-unit=block", "--circuit-accept=new", *WHY)
    result.stdout.fnmatch_lines(["ioi-block: accepted: *", "  most important blocks, in logits: *attention 0 (*"])
    change_weights(gate)
    result = gate.run("--circuit-unit=block", "--circuit-accept=changed", *WHY)
    result.stdout.fnmatch_lines(["ioi-block: accepted: *", "  block attention 0: importance * logits"])


def test_the_command_names_the_kind_of_unit(gate: Gate) -> None:
    result = gate.run("--circuit-unit=block", "--circuit-report-dir=out")
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(["  To accept the present reference instead: pytest --circuit-unit=block *"])
    assert [(run["task"], run["unit"]) for run in gate.report()["runs"]] == [("ioi", "block")]


def test_accepting_nothing_is_exit_code_5(gate: Gate) -> None:
    (gate.path / "test_other.py").write_text("def test_other():\n    pass\n")
    result = gate.run("--circuit-accept=all", *WHY, "test_other.py")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.fnmatch_lines(["Nothing was accepted: the gate's tests were not selected.*"])


def test_the_command_in_the_message_is_the_one_that_helps(gate: Gate) -> None:
    """With the options that say what is compared, quoted for a shell, and without those that only compare."""
    (gate.path / "ioi.jsonl").rename(gate.path / "my task.jsonl")
    given = ["--circuit-task", "my task.jsonl", "--circuit-ablation", "zero"]
    result = gate.run(*given, "--circuit-report", "--circuit-candidate", "f32")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "  To accept the present reference instead: pytest '--circuit-task=my task.jsonl' --circuit-ablation=zero "
            "--circuit-accept=new --circuit-reason 'why'"
        ]
    )
    assert gate.run(*given, "--circuit-accept=new", "--circuit-reason", "why").ret == pytest.ExitCode.OK
    assert gate.run(*given, "--circuit-report", "--circuit-candidate", "f32").ret == pytest.ExitCode.OK
