"""The last line that a person reads is the verdict of the run, whatever became of it; it agrees with the exit code."""

from __future__ import annotations

import pytest
from gate_runner import Gate

INCOMPLETE = 10
BUT_FAILED = "but the run failed: another test, a worker, or a file that could not be written"


def test_pass_stands_below_everything_that_pytest_prints(gate: Gate) -> None:
    for arguments in ([], ["-q"], ["--no-summary"]):
        result = gate.run("--circuit-report-dir=out", *arguments)
        assert result.ret == pytest.ExitCode.OK
        assert result.outlines[-1] == "circuit gate: PASS (1 PASS)"
    assert gate.report()["verdict"] == "PASS"


def test_another_test_that_fails(gate: Gate) -> None:
    (gate.path / "test_other.py").write_text("def test_it():\n    raise ValueError\n")
    result = gate.run("--circuit-report-dir=out")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.outlines[-1] == f"circuit gate: FAIL (1 PASS, {BUT_FAILED})"
    assert (gate.report()["verdict"], gate.report()["failed"]) == ("FAIL", True)
    markdown, page = ((gate.path / "out" / f"report.{kind}").read_text("utf-8") for kind in ("md", "html"))
    assert markdown.startswith(f"## Circuit gate: ❌ FAIL\n\n1 PASS, {BUT_FAILED}.")
    assert "<title>FAIL ·" in page


def test_a_worker_that_is_killed(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it has measured: every verdict is PASS, and xdist says that a test was lost."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # this test may run in one itself
    (gate.path / "conftest.py").write_text(
        "import os, signal\n\n\n"
        "def pytest_runtest_logreport(report):\n"
        "    if 'PYTEST_XDIST_WORKER' in os.environ and report.when == 'call' and 'test_drift' in report.nodeid:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = gate.run("-n1", "--max-worker-restart=0", "--circuit-report-dir=out")
    assert result.ret not in (pytest.ExitCode.OK, INCOMPLETE)
    assert result.outlines[-1].startswith(("circuit gate: FAIL (1 PASS, ", "circuit gate: INTERRUPTED (1 PASS"))
    assert gate.report()["verdict"] in ("FAIL", "INTERRUPTED")


@pytest.mark.parametrize("broken", ["report.json", "report.html"])
def test_a_report_that_cannot_be_written(gate: Gate, broken: str) -> None:
    (gate.path / "out" / broken).mkdir(parents=True)
    result = gate.run("--circuit-report-dir=out")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.outlines[-1] == f"circuit gate: FAIL (1 PASS, {BUT_FAILED})"
    assert "❌ FAIL" in (gate.path / "out" / "report.md").read_text("utf-8")
    if broken != "report.json":
        assert gate.report()["verdict"] == "FAIL"


def test_a_disk_that_has_no_room(gate: Gate) -> None:
    """As a limit on the size of a file, which the page is the first to reach."""
    (gate.path / "conftest.py").write_text(
        "import resource\n\n\n"
        "def pytest_sessionfinish():\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n"
    )
    result = gate.run_subprocess("--circuit-report-dir=out")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["out/report.html could not be written: File too large"])
    assert result.outlines[-1] == f"circuit gate: FAIL (1 PASS, {BUT_FAILED})"
    assert sorted(file.name for file in (gate.path / "out").iterdir()) == ["report.json", "report.md"]
    assert gate.report()["verdict"] == "FAIL"


def test_nothing_that_was_compared(gate: Gate) -> None:
    result = gate.run("--circuit-report-dir=out", "-k", "nothing")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert result.outlines[-1] == "circuit gate: NONE (nothing was compared)"
    assert gate.report()["verdict"] == "NONE"


# --- a part of the cases ---

FILTER = """
def pytest_collection_modifyitems(items):
    items[:] = [item for item in items if "facts" not in item.name]
"""
PARTS = {
    "-k": (("-k", "ioi"), {}, ""),
    "a conftest's filter": ((), {}, FILTER),
    "PYTEST_ADDOPTS": ((), {"PYTEST_ADDOPTS": "-k ioi"}, ""),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_red_in_ci_with_an_exit_code_of_its_own(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    arguments, environment, conftest = PARTS[part]
    gate.configure(tasks=["ioi.jsonl", "facts.jsonl"])
    (gate.path / "conftest.py").write_text(conftest)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    shown = "circuit gate: INCOMPLETE (1 PASS, 1 of 2 not compared)"
    at_a_desk = gate.run("--circuit-report-dir=out", *arguments)
    assert (at_a_desk.ret, at_a_desk.outlines[-1]) == (pytest.ExitCode.OK, shown)
    monkeypatch.setenv("CI", "true")
    in_ci = gate.run("--circuit-report-dir=out", *arguments)
    way_out = f"{shown}: exit code 10 in CI; --circuit-allow-incomplete says that a part is enough"
    assert (in_ci.ret, in_ci.outlines[-1]) == (INCOMPLETE, way_out)
    assert gate.report()["verdict"] == "INCOMPLETE"
    allowed = gate.run("--circuit-report", "--circuit-allow-incomplete", *arguments)
    assert (allowed.ret, allowed.outlines[-1]) == (pytest.ExitCode.OK, shown)


def test_a_failure_in_a_part_is_a_failure(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    gate.configure(tasks=["ioi.jsonl", "facts.jsonl"], limits={"drift_median": 1e-5})
    result = gate.run("--circuit-report", "--circuit-allow-incomplete", "-k", "ioi and behaviour")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.outlines[-1] == "circuit gate: FAIL (1 FAIL, 1 of 2 not compared)"


# --- a run that does not finish leaves no older report behind ---

REFUSED = {
    "an unknown candidate": ("--circuit-candidate=f61",),
    "an unknown option": ("--no-such-option",),
    "a path that does not exist": ("nowhere.py",),
    "only collected": ("--collect-only",),
}


def reports(gate: Gate) -> list[str]:
    return sorted(file.name for file in (gate.path / "out").iterdir())


@pytest.mark.parametrize("refused", REFUSED)
def test_a_refused_run_removes_the_last_report(gate: Gate, refused: str) -> None:
    gate.run("--circuit-report-dir=out")
    assert reports(gate) == ["report.html", "report.json", "report.md"]
    (gate.path / "out" / "mine.txt").touch()
    gate.run("--circuit-report-dir=out", *REFUSED[refused])
    assert "PASS" not in "".join(file.read_text("utf-8") for file in (gate.path / "out").iterdir())
    assert "mine.txt" in reports(gate)


@pytest.mark.parametrize("settings", [{"candidates": ["f61"]}, {"nonsense": 1}, {"limits": {"drift": 1}}])
def test_a_directory_among_refused_settings_is_swept_too(gate: Gate, settings: dict[str, object]) -> None:
    gate.configure(report_dir="out")
    gate.run()
    assert len(reports(gate)) == 3
    gate.configure(report_dir="out", **settings)
    gate.run()
    assert reports(gate) == []


def test_an_interrupted_run_says_so_in_every_report(gate: Gate) -> None:
    gate.run("--circuit-report-dir=out")
    (gate.path / "test_other.py").write_text("def test_stops():\n    raise KeyboardInterrupt\n")
    result = gate.run("--circuit-report-dir=out")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert result.outlines[-1] == "circuit gate: INTERRUPTED (1 PASS)"
    assert gate.report()["verdict"] == "INTERRUPTED"


def test_the_last_report_can_be_compared_with_where_the_new_one_is_written(gate: Gate) -> None:
    gate.run("--circuit-report-dir=out")
    result = gate.run("--circuit-report-dir=out", "--circuit-compare=out/report.json")
    assert result.ret == pytest.ExitCode.OK
    assert gate.report()["compare"]["runs"][0]["verdict"] == ["PASS", "PASS"]
