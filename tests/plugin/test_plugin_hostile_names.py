"""A log is read by people and by services: no name in a model, a directory or a task makes either do anything."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from gate_folder import read_lines, write_lines
from gate_runner import Gate
from safetensors.torch import load_file, save_file

EVIL = "x\n::error title=a::pwned\r\n  ::add-mask::y ##[add-mask]z ##vso[task.complete]\x1b[31m\u202e"


def assert_harmless(result: pytest.RunResult) -> None:
    text = "\n".join([*result.outlines, *result.errlines])
    assert "pwned" in text or "add-mask" in text, "the name was not shown at all"
    assert not [line for line in text.splitlines() if line.lstrip().startswith("::")]
    for start in ("##[", "##vso[", "\x1b[31m", "\u202e"):
        assert start not in text


@pytest.fixture
def evil(gate: Gate) -> str:
    """A directory of that name, as far as a file system allows."""
    name = EVIL.replace("/", "")
    shutil.copytree(gate.model, gate.path / name)
    return name


@pytest.mark.parametrize("arguments", [(), ("-v", "-rA"), ("-n1",), ("--collect-only",)])
def test_names_of_directories(gate: Gate, evil: str, arguments: tuple[str, ...]) -> None:
    result = gate.run("--circuit-report-dir=out", f"--circuit-candidate={evil}", *arguments)
    assert result.ret == pytest.ExitCode.OK
    assert_harmless(result)


def test_names_of_tensors(gate: Gate) -> None:
    file = gate.model / "model.safetensors"
    weights = load_file(file)
    save_file(weights | {EVIL: next(iter(weights.values())).clone()}, file, metadata={"format": "pt"})
    result = gate.run("--circuit-report")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert_harmless(result)


@pytest.mark.parametrize(
    "arguments", [("--circuit-candidate=f61" + EVIL,), (f"--circuit-report-dir=ioi.jsonl/{EVIL}",)]
)
def test_what_is_refused(gate: Gate, arguments: tuple[str, ...]) -> None:
    result = gate.run("--circuit-report", *arguments)
    assert result.ret != pytest.ExitCode.OK
    assert_harmless(result)


def test_settings_that_are_refused_when_the_gate_is_collected(gate: Gate) -> None:
    gate.configure(candidates=["f61" + EVIL])
    assert_harmless(gate.run())


def test_names_and_lines_of_task_files(gate: Gate) -> None:
    """A name that no baseline can have is refused before anything is loaded."""
    lines = read_lines(gate.path / "ioi.jsonl")
    name = EVIL.replace("/", "") + ".jsonl"
    for file, broken in ((name, {}), ("mine.jsonl", {EVIL: 1})):
        write_lines(gate.path / file, [{**line, "cluster": EVIL, **broken} for line in lines])
        result = gate.run("--circuit-accept=new", "--circuit-reason", EVIL, f"--circuit-task={file}")
        assert result.ret == (pytest.ExitCode.USAGE_ERROR if file == name else pytest.ExitCode.TESTS_FAILED)
        assert_harmless(result)
    write_lines(
        gate.path / "mine.jsonl", [{**line, "cluster": f"{EVIL}{place % 8}"} for place, line in enumerate(lines)]
    )
    result = gate.run("--circuit-accept=new", "--circuit-reason", EVIL, "--circuit-task=mine.jsonl")
    assert result.ret == pytest.ExitCode.OK
    assert_harmless(result)


def test_names_that_are_no_utf8(gate: Gate) -> None:
    """safetensors cannot open such a path; that is said, and every report of it can be written."""
    name = os.fsdecode(b"caf\xe9 pwned")
    shutil.copytree(gate.model, gate.path / name)
    result = gate.run("--circuit-report-dir=out", f"--circuit-candidate={name}")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.outlines[-1] == "circuit gate: FAIL (1 FAIL)"
    assert sorted(file.name for file in (gate.path / "out").iterdir()) == ["report.html", "report.json", "report.md"]


def test_the_page_shows_no_invisible_letters(gate: Gate, evil: str) -> None:
    gate.run("--circuit-report-dir=out", f"--circuit-candidate={evil}")
    for kind in ("html", "md"):
        text = Path(gate.path / "out" / f"report.{kind}").read_text("utf-8")
        assert "add-mask" in text or "add&#45;mask" in text
        for letter in "\x1b\u202e\r":
            assert letter not in text
