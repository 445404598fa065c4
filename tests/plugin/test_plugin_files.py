"""What a run leaves behind: report.json, report.md, report.html, figures, step summary, annotations, comparison."""

from __future__ import annotations

import json

import pytest
from gate_runner import Gate

FAILING = {"f16": {"drift_median": 1e-5}}


@pytest.fixture(autouse=True)
def no_workflow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


def test_three_renderings_of_one_report(gate: Gate) -> None:
    result = gate.run("--circuit-report-dir=out")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines([f"wrote out/report.{kind}" for kind in ("json", "md", "html")])
    report = gate.report()
    assert report["command"] == "pytest --circuit-report"
    assert report["compare"] is None
    markdown, html = ((gate.path / "out" / f"report.{kind}").read_text() for kind in ("md", "html"))
    for text in (markdown, html):
        assert "f16" in text
        assert "PASS" in text
        assert "ioi" in text


def test_figures(gate: Gate) -> None:
    result = gate.run("--circuit-figures=pictures")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["wrote pictures", "circuit gate: PASS (1 PASS)"])
    names = {file.stem for file in (gate.path / "pictures").glob("*.svg")}
    assert len(names) >= 4
    assert names == {file.stem for file in (gate.path / "pictures").glob("*.png")}


def test_step_summary_of_a_workflow(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = gate.path / "summary.md"
    summary.write_text("# Earlier step\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert gate.run("--circuit-report").ret == pytest.ExitCode.OK
    text = summary.read_text()
    assert text.startswith("# Earlier step\n\n")
    assert "f16" in text


def test_a_run_without_the_gate_leaves_the_step_summary_alone(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = gate.path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    (gate.path / "test_other.py").write_text("def test_it():\n    pass\n")
    assert gate.run("test_other.py").ret == pytest.ExitCode.OK
    assert not summary.exists()


@pytest.mark.parametrize(("actions", "count"), [("true", 1), ("false", 0)])
def test_annotations_of_what_failed_in_a_workflow(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, actions: str, count: int
) -> None:
    gate.configure(limits=FAILING)
    monkeypatch.setenv("GITHUB_ACTIONS", actions)
    result = gate.run("--circuit-report")
    commands = [line for line in result.outlines if line.startswith("::")]
    assert len(commands) == count
    assert all(line.startswith("::error title=FAIL%3A f16 on ioi::") and "drift_median" in line for line in commands)


def test_what_changed_since_the_last_release(gate: Gate) -> None:
    gate.run("--circuit-report-dir=old")
    gate.configure(limits=FAILING)
    result = gate.run("--circuit-report-dir=new", "--circuit-compare=old/report.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["Since the last release", "*f16*ioi*PASS -> FAIL*", "circuit gate: FAIL (1 FAIL)"])
    (run,) = gate.report("new")["compare"]["runs"]
    assert (run["candidate"], run["task"]) == ("f16", "ioi")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no report old.json"),
        ("{", "report old.json is not JSON"),
        (json.dumps({"schema": 1, "runs": []}), "has schema 1"),
    ],
)
def test_a_report_that_cannot_be_compared_with_is_refused_at_once(
    gate: Gate, content: str | None, message: str
) -> None:
    if content is not None:
        (gate.path / "old.json").write_text(content)
    result = gate.run("--circuit-compare=old.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{message}*"])


def test_a_directory_that_is_a_file(gate: Gate) -> None:
    (gate.path / "pictures").write_text("")
    result = gate.run("--circuit-figures=pictures")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*figures is pictures, but must be a directory, and this is a file."])


def test_what_cannot_be_written_fails_the_run_and_nothing_else(gate: Gate) -> None:
    (gate.path / "out" / "report.md").mkdir(parents=True)
    result = gate.run("--circuit-report-dir=out")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["wrote out/report.json", "*report.md could not be written: *", "wrote out/report.html"]
    )


def test_the_command_measures_the_same_again(gate: Gate) -> None:
    gate.run(
        "--circuit-report-dir=out", "--circuit-candidate=int8-sim", "--circuit-task=ioi.jsonl", "-p", "no:cacheprovider"
    )
    assert gate.report()["command"] == ("pytest --circuit-task=ioi.jsonl --circuit-report --circuit-candidate=int8-sim")
