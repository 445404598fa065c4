"""[tool.circuitcheck] in pyproject.toml, and the command line that wins over it."""

from __future__ import annotations

import shutil

import pytest
from gate_folder import random_model, save_model
from gate_runner import Gate

from circuitcheck.core.errors import ModelError, TaskError


def compared(gate: Gate, *arguments: str) -> list[tuple[str, str]]:
    """Candidate and task of every entry of the report."""
    gate.run("--circuit-report-dir", "out", *arguments)
    return [(run["candidate"], run["task"]) for run in gate.report()["runs"]]


def test_candidates_and_tasks(gate: Gate) -> None:
    gate.configure(candidates=["bf16", "f16"], tasks=["facts.jsonl"])
    assert compared(gate) == [("bf16", "facts"), ("f16", "facts")]


def test_candidates_and_tasks_of_the_command_line_replace_them(gate: Gate) -> None:
    gate.configure(candidates=["bf16", "f16"], tasks=["facts.jsonl"])
    given = ["--circuit-candidate=int8-sim", "--circuit-candidate=f32", "--circuit-task=ioi.jsonl"]
    assert compared(gate, *given) == [("int8-sim", "ioi"), ("f32", "ioi")]


def test_four_candidates_of_the_embedded_model_by_default(gate: Gate) -> None:
    gate.configure(model=None, candidates=None)
    lines = gate.run("--collect-only", "-q", "-k", "drift").outlines
    cases = [f"test_gate.py::test_drift[{candidate}-ioi]" for candidate in ("f32", "f16", "bf16", "int8-sim")]
    assert lines[: len(cases)] == cases


class TestFoldersCalledLikeSomethingKnown:
    """A name that circuitcheck knows means what it knows, whatever lies beside the pyproject.toml."""

    @pytest.fixture(autouse=True)
    def folders(self, gate: Gate) -> None:
        for name in ("f16", "facts", "embedded"):
            (gate.path / name).mkdir()

    def test_a_precision(self, gate: Gate) -> None:
        assert gate.run("--circuit-report").ret == pytest.ExitCode.OK

    def test_a_task(self, gate: Gate) -> None:
        gate.configure(tasks=["facts"])
        gate.run().stdout.fnmatch_lines(["f16-facts: task 'facts' is in text, but the model has no tokenizer;*"])

    def test_the_embedded_model(self, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def load_model(source: str, *arguments: object, **options: object) -> None:
            asked.append(source)
            raise ModelError("far enough")

        monkeypatch.setattr("circuitcheck.runtimes.pytorch.loading.load.load_model", load_model)
        gate.configure(model=None, tasks=None)
        gate.run("-k", "facts", "--circuit-accept=new", "--circuit-reason=why").assert_outcomes(failed=4)
        assert asked == ["embedded"]


def test_report_and_its_directory(gate: Gate) -> None:
    gate.configure(report=True)
    gate.run().stdout.fnmatch_lines(["circuit gate: PASS (1 PASS)"])
    gate.configure(report_dir="reports")
    gate.run().stdout.fnmatch_lines([f"wrote {gate.path}/reports/report.json", "circuit gate: PASS (1 PASS)"])
    gate.run("--circuit-report-dir", "out").stdout.fnmatch_lines(["wrote out/report.json"])


def test_model_and_baselines(gate: Gate) -> None:
    for name in ("other", "golden"):
        (gate.path / name).mkdir()
    gate.model.rename(gate.path / "other" / "tiny")
    gate.baselines.rename(gate.path / "golden" / "tiny")
    gate.configure(model="other/tiny", baselines="golden")
    assert gate.run().ret == pytest.ExitCode.OK
    result = gate.run("--circuit-baselines", "elsewhere")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*golden baseline elsewhere/tiny/ioi.json is missing*"])
    shutil.copytree(gate.path / "golden", gate.path / "elsewhere")
    assert gate.run("--circuit-baselines", "elsewhere").ret == pytest.ExitCode.OK


def test_model_of_the_command_line_wins(gate: Gate) -> None:
    gate.configure(model="gone")
    assert gate.run("--circuit-model", "model").ret == pytest.ExitCode.OK


@pytest.mark.parametrize(("key", "value"), [("ablation", "zero"), ("positions", "answer")])
def test_what_is_measured(gate: Gate, key: str, value: str) -> None:
    old = {"ablation": "resample", "positions": "all"}[key]
    gate.configure(**{key: value})
    result = gate.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"  measurement spec, {key}: recorded {old}, now {value}"])
    assert gate.run(f"--circuit-{key}", old).ret == pytest.ExitCode.OK


def test_prompts_is_the_number_of_pairs_of_built_in_tasks(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_task(task: str, tokenizer: object, *, prompts: int | None, vocabulary: int) -> None:
        asked.append(prompts)
        raise TaskError("far enough")

    monkeypatch.setattr("circuitcheck.tasks.named.load_task", load_task)
    gate.run()
    gate.configure(prompts=7)
    gate.run()
    gate.run("--circuit-prompts", "9")
    assert asked == [None, 7, 9]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, [1.2, 1.2, 1.2]),
        ({"excess": 1.1}, [1.1, 1.1, 1.1]),
        ({"excess": 1.1, "f16": {"excess": 1.05}}, [1.05, 1.05, 1.1]),
        ({"f16": {"excess": 1.1, "facts": {"excess": 1.05}}}, [1.1, 1.05, 1.2]),
    ],
    ids=["defaults", "everywhere", "precision", "precision and task"],
)
def test_limits(gate: Gate, limits: dict[str, object], expected: list[float]) -> None:
    gate.configure(candidates=["f16", "int8-sim"], tasks=["ioi.jsonl", "facts.jsonl"], limits=limits)
    gate.run("--circuit-report-dir", "out")
    found = {
        (run["candidate"], run["task"]): next(row["limit"] for row in run["criteria"] if row["name"] == "excess")
        for run in gate.report()["runs"]
    }
    assert [found["f16", "ioi"], found["f16", "facts"], found["int8-sim", "ioi"]] == expected


def test_limits_of_a_saved_candidate_are_those_of_its_precision(gate: Gate) -> None:
    save_model(random_model().bfloat16(), gate.path / "candidate")
    gate.configure(candidates=["candidate"], limits={"bf16": {"drift_median": 0.07}})
    gate.run("--circuit-report-dir", "out")
    run = gate.report()["runs"][0]
    assert (run["candidate"], run["precision"], run["verdict"]) == ("candidate", "bf16", "PASS")
    assert next(row["limit"] for row in run["criteria"] if row["name"] == "drift_median") == 0.07


def test_relative_paths_start_from_the_pyproject_and_those_of_options_from_here(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.configure(report_dir="reports", candidates=["model"])
    (gate.path / "sub").mkdir()
    monkeypatch.chdir(gate.path / "sub")
    result = gate.run("..")
    assert result.ret == pytest.ExitCode.OK
    assert (gate.path / "reports" / "report.json").is_file()
    result = gate.run("..", "--circuit-task=../facts.jsonl", "--circuit-model=../model", "--circuit-report-dir=here")
    assert result.ret == pytest.ExitCode.OK
    assert gate.report("sub/here")["runs"][0]["task"] == "facts"
    result = gate.run("..", "--circuit-model=model/../model")
    assert result.ret == pytest.ExitCode.OK, "a saved candidate needs no reference"
    result = gate.run("..", "--circuit-candidate=model")
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_a_path_that_pytest_takes_for_a_test_path_is_refused(
    gate: Gate, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """pytest looks for its settings before it knows the plugin's options, and would not find any."""
    model = tmp_path_factory.mktemp("elsewhere") / "model"
    gate.model.rename(model)
    result = gate.run("--circuit-model", str(model), "--circuit-report")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: circuitcheck: pytest took *Write --circuit-model={model}, with an equals*"])
    assert gate.run(f"--circuit-model={model}", "--circuit-report").ret == pytest.ExitCode.OK


def test_settings_beside_a_pytest_ini(gate: Gate) -> None:
    """The pyproject.toml of the root directory counts, wherever pytest's own settings stand."""
    (gate.path / "pytest.ini").write_text("[pytest]\n")
    assert compared(gate) == [("f16", "ioi")]


def test_no_settings_at_all(gate: Gate) -> None:
    (gate.path / "pyproject.toml").unlink()
    assert compared(gate, "--circuit-model=model", "--circuit-candidate=f16", "--circuit-task=ioi.jsonl") == [
        ("f16", "ioi")
    ]
