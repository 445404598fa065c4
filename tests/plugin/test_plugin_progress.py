"""Long work shows a progress bar on a terminal, and in a log a line now and then."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from gate_runner import WITHOUT, Gate

pty = pytest.importorskip("pty", reason="pseudo-terminals are a Unix thing")
termios = pytest.importorskip("termios")


def on_a_terminal(gate: Gate, *arguments: str) -> str:
    """What a person would see."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    command = [sys.executable, "-m", "pytest", *arguments, *WITHOUT]
    process = subprocess.Popen(command, cwd=gate.path, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # Linux says so when the other side is closed
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    assert process.wait() == 0, seen.decode()
    return seen.decode()


def test_measuring_shows_a_bar_on_a_terminal(gate: Gate) -> None:
    seen = on_a_terminal(gate, "--circuit-report")
    assert "f16-ioi: 0 rows" in seen
    assert "4 passed" in seen


def test_recording_shows_a_bar_on_a_terminal(gate: Gate) -> None:
    gate.remove_baseline()
    seen = on_a_terminal(gate, "--circuit-accept=new", "--circuit-reason=why")
    assert "recording ioi: 0 rows" in seen
    assert "4 skipped" in seen


def test_no_bar_in_a_log_even_where_standard_error_is_a_terminal(gate: Gate) -> None:
    """As in `pytest -s > log`. Neither circuitcheck's own bar nor one of the libraries that load the model."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "pytest", "-s", "--circuit-report", *WITHOUT]
    result = subprocess.run(command, cwd=gate.path, stdout=subprocess.PIPE, stderr=theirs, check=True)
    os.close(theirs)
    log = result.stdout.decode()
    assert "circuit gate: PASS (1 PASS)" in log
    for sign in (" rows", "it/s", "\r"):
        assert sign not in log
    with pytest.raises(OSError, match="Input/output error"):  # closed, and never written to
        os.read(ours, 4096)
    os.close(ours)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [(("--circuit-report",), "f16-ioi"), (("--circuit-accept=all", "--circuit-reason=why"), "recording ioi")],
)
def test_a_log_hears_of_what_takes_long(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], what: str
) -> None:
    """Here everything does."""
    monkeypatch.setattr("circuitcheck.plugin.progress_bars.EVERY", 0.0)
    lines = [re.fullmatch(rf"{what}: ([\d,]+) rows after \d+ s", line) for line in gate.run(*arguments).outlines]
    counts = [int(line[1].replace(",", "")) for line in lines if line]
    assert counts
    assert counts == sorted(counts)
