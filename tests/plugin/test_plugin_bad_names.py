"""Models, candidates and tasks that are not there are refused before anything is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from gate_runner import Gate, files_below


def assert_refused(gate: Gate, *arguments: str, message: str) -> None:
    """A usage error in one line, without a test run, and nothing written."""
    before = files_below(gate.path)
    result = gate.run("--circuit-report-dir", "out", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: circuitcheck: {message}"])
    result.stdout.no_fnmatch_line("*test session starts*")
    assert files_below(gate.path) == before


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the hub is asked for, without a network."""
    names: list[str] = []

    def no_network(name: str, **options: object) -> None:
        names.append(name)
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    return names


@pytest.mark.parametrize("candidate", ["f61", "int9", "F16", "hub/model-int8", "./gone"])
def test_an_unknown_candidate(gate: Gate, candidate: str) -> None:
    assert_refused(
        gate,
        "--circuit-candidate",
        candidate,
        message=f"candidate '{candidate}' is neither a precision (f32, f16, bf16, int8-sim, int8-rtn, *, bnb-nf4), nor "
        f"a directory, .gguf or .onnx file seen from {gate.path}. Correct the spelling, give the directory that the "
        "quantized model was saved to, or add --circuit-download for a hub id (owner/name).",
    )


def test_all_unknown_candidates_are_named_at_once(gate: Gate) -> None:
    arguments = [f"--circuit-candidate={name}" for name in ("f61", "f16", "int9")]
    assert_refused(gate, *arguments, message="candidate 'f61', 'int9' is neither *")


def test_an_unknown_candidate_among_the_settings(gate: Gate) -> None:
    gate.configure(candidates=["f61"])
    assert_refused(gate, message="candidate 'f61' is neither *")


@pytest.mark.parametrize("task", ["iio", "gone.jsonl", "ioi.json", "model"])
def test_an_unknown_task(gate: Gate, task: str) -> None:
    assert_refused(
        gate,
        "--circuit-task",
        task,
        message=f"task '{task}' is neither built in (ioi, facts, induction) nor a .jsonl file seen from {gate.path}. "
        "Correct the spelling, or write the file: one prompt pair a line.",
    )


@pytest.mark.parametrize("candidates", [("f16", "f16"), ("model", "./model"), ("model", "copies/model/")])
def test_the_same_candidate_twice(gate: Gate, candidates: tuple[str, str]) -> None:
    shutil.copytree(gate.model, gate.path / "copies" / "model")
    name = Path(candidates[0]).name
    arguments = [f"--circuit-candidate={candidate}" for candidate in candidates]
    assert_refused(gate, *arguments, message=f"candidates {name}: given twice, or two of one name. *name each once*")


@pytest.mark.parametrize("tasks", [("ioi.jsonl", "./ioi.jsonl"), ("ioi", "ioi.jsonl")])
def test_the_same_task_twice(gate: Gate, tasks: tuple[str, str]) -> None:
    arguments = [f"--circuit-task={task}" for task in tasks]
    assert_refused(gate, *arguments, message="tasks ioi: given twice, or two of one name. *name each once*")


@pytest.mark.parametrize("model", ["./gone", "/no/where", "some/where/gone", "models/mine", "modle"])
def test_a_model_directory_that_does_not_exist(gate: Gate, model: str, asked: list[str]) -> None:
    """Said before that its baselines are missing, which they are, too; the hub is not asked for what was mistyped."""
    assert_refused(
        gate,
        "--circuit-model",
        model,
        message=f"model directory {model} does not exist. Give the directory that the reference was saved to with "
        "save_pretrained, or 'embedded', or add --circuit-download for a hub id (owner/name).",
    )
    assert asked == []


@pytest.mark.parametrize("model", ["./gone", "/no/where", "some/where/gone", "~/mine", "modle", "some/model.gguf"])
def test_what_is_no_hub_id_is_never_asked_for(gate: Gate, model: str, asked: list[str]) -> None:
    message = f"model directory {model} does not exist. *(owner/name)."
    assert_refused(gate, "--circuit-download", "--circuit-model", model, message=message)
    assert asked == []


@pytest.mark.parametrize("option", ["--circuit-against-base", "--circuit-multiverse", "--circuit-calibrate"])
def test_a_model_that_the_run_will_load_does_not_exist(gate: Gate, option: str) -> None:
    saved = ("--circuit-model=./gone", "--circuit-candidate=model")
    assert_refused(gate, option, *saved, message="model directory ./gone does not exist. *")


def test_a_model_that_is_a_file(gate: Gate) -> None:
    assert_refused(gate, "--circuit-model", "ioi.jsonl", message="model directory ioi.jsonl is a file. *")


def test_accepting_a_model_that_does_not_exist(gate: Gate) -> None:
    assert_refused(
        gate,
        "--circuit-model=./gone",
        "--circuit-accept=all",
        "--circuit-reason=why",
        message="model directory ./gone does not exist. *",
    )


def test_a_hub_id_is_asked_for_where_that_is_allowed(gate: Gate, asked: list[str]) -> None:
    (gate.path / "baselines" / "model").rename(gate.path / "baselines" / "tiny")
    before = gate.stored()
    result = gate.run("--circuit-report", "--circuit-model", "someone/tiny", "--circuit-download")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        ["*model 'someone/tiny' is no local directory, and could not be fetched from the hub (ConnectionError)*"]
    )
    assert asked == ["someone/tiny"] * len(asked)
    assert gate.stored() == before


def test_the_command_for_a_hub_id_allows_the_hub(gate: Gate, asked: list[str]) -> None:
    """The network is not asked before there is a baseline to compare with."""
    result = gate.run("--circuit-report", "--circuit-model", "someone/tiny", "--circuit-download")
    result.stdout.fnmatch_lines(
        [
            "*baselines/tiny/ioi.json is missing*",
            "  To accept the present reference instead: pytest --circuit-model=someone/tiny --circuit-download "
            "--circuit-accept=new *",
        ]
    )
    assert asked == []


def test_a_missing_baseline_says_that_only_the_models_name_was_used(gate: Gate) -> None:
    result = gate.run("--circuit-report", "--circuit-model=models/mine", "--circuit-candidate=model")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["*baselines/mine/ioi.json is missing*", "  (There is no directory models/mine here; only its name was used.)"]
    )


def test_saved_candidates_are_compared_without_the_reference(gate: Gate) -> None:
    """Half the memory in CI: the baseline knows all that is needed, and the reference may be elsewhere."""
    gate.model.rename(gate.path / "candidate")
    result = gate.run("--circuit-report", "--circuit-model=./model", "--circuit-candidate=candidate")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["circuit gate: PASS (1 PASS)"])


@pytest.mark.parametrize("prompts", ["0", "-3"])
def test_no_prompts(gate: Gate, prompts: str) -> None:
    assert_refused(gate, f"--circuit-prompts={prompts}", message=f"prompts is {prompts}, but must be at least 1.")


@pytest.mark.parametrize(
    "argument", ["--circuit-prompts=many", "--circuit-ablation=knockout", "--circuit-positions=last"]
)
def test_values_that_the_options_do_not_know(gate: Gate, argument: str) -> None:
    result = gate.run("--circuit-report", argument)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*error: argument {argument.partition('=')[0]}: invalid *"])
