"""`--circuit-resume`: finished rows are kept, and a run that is started again goes on with them."""

from __future__ import annotations

import json

import pytest
from gate_folder import random_model, save_model
from gate_runner import Gate, files_below

ACCEPT = ("--circuit-accept=new", "--circuit-reason", "first recording")
RESUME = ("--circuit-resume", "finished")

STOPPED_CONFTEST = """
import pytest


@pytest.fixture(scope="session", autouse=True)
def stopped():
    from circuitcheck.gate import kept_rows

    real = kept_rows.KeptRows.keep
    kept = []

    def keep(self, address, finished):
        real(self, address, finished)
        kept.append(address)
        if len(kept) == {after}:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept_rows.KeptRows, "keep", keep)
        yield
"""


def test_a_recording_that_was_stopped_goes_on_to_the_same_baseline(gate: Gate) -> None:
    before = gate.stored()
    gate.remove_baseline()
    (gate.path / "conftest.py").write_text(STOPPED_CONFTEST.format(after=20))
    result = gate.run(*ACCEPT, *RESUME)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert "model/ioi.json" not in gate.stored()
    (gate.path / "conftest.py").unlink()
    result = gate.run(*ACCEPT, *RESUME)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["finished: 20 of * parts of sweeps were finished before this run."])
    assert gate.stored() == before


def test_a_gate_that_goes_on_reports_what_one_that_was_not_stopped_does(gate: Gate) -> None:
    """Also where workers share the folder."""
    gate.configure(candidates=["f16", "int8-sim"])
    gate.run("--circuit-report-dir", "out")
    first = gate.run("--circuit-report-dir", "first", *RESUME)
    first.stdout.fnmatch_lines(["finished: 0 of * parts of sweeps were finished before this run."])
    count = len(files_below(gate.path / "finished" / "rows"))
    again = gate.run("--circuit-report-dir", "again", *RESUME, "-n2")
    again.stdout.fnmatch_lines([f"finished: {count} of {count} parts of sweeps were finished before this run."])
    reports = [(gate.path / name / "report.json").read_bytes() for name in ("out", "first", "again")]
    assert reports[0] == reports[1] == reports[2]
    assert RESUME[0] not in json.loads(reports[0])["command"]


def test_damaged_rows_are_measured_again_and_said(gate: Gate) -> None:
    gate.run("--circuit-report-dir", "first", *RESUME)
    names = files_below(gate.path / "finished" / "rows")
    victim = gate.path / "finished" / "rows" / names[0]
    good = victim.read_bytes()
    victim.write_bytes(good[:-1])
    result = gate.run("--circuit-report-dir", "again", *RESUME)
    found = len(names) - 1
    result.stdout.fnmatch_lines(
        [f"finished: {found} of * were finished before this run; 1 were damaged, and were measured again."]
    )
    assert victim.read_bytes() == good
    assert gate.report("first") == gate.report("again")


def test_a_folder_of_other_weights_fails_and_nothing_is_written(gate: Gate) -> None:
    gate.run("--circuit-report", *RESUME)
    before = files_below(gate.path / "finished")
    gate.remove_baseline()
    save_model(random_model(seed=1), gate.model)
    stored = gate.stored()
    result = gate.run(*ACCEPT, *RESUME)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["*resume folder finished has rows of reference *, now *: none of them can be used, and nothing was measured.*"]
    )
    assert (gate.stored(), files_below(gate.path / "finished")) == (stored, before)


def test_a_file_in_the_folders_place_is_refused_before_anything_is_measured(gate: Gate) -> None:
    (gate.path / "finished").write_text("a file")
    result = gate.run("--circuit-report", *RESUME)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: circuitcheck: resume is finished, but must be a directory, *"])
