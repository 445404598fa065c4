"""A forged baseline, whose checksums are right, makes no run import or write anything that it names."""

from __future__ import annotations

import json
from pathlib import Path

import forgery
import pytest
from gate_runner import Gate

from circuitcheck.core.specification import MeasurementSpec

RUNS = {
    "gated": ("--circuit-report",),
    "accepted": ("--circuit-accept=changed", "--circuit-reason", "why"),
    "calibrated": ("--circuit-calibrate",),
}


def forge(gate: Gate, **changes: object) -> None:
    """The stored baseline with other words in its JSON."""
    file = gate.baseline_file("json")
    content = json.loads(file.read_text())
    for key, value in changes.items():
        content[key] = content[key] | value if isinstance(value, dict) else value
    if "spec" in changes:
        content["fingerprints"]["spec"] = MeasurementSpec(**content["spec"]).fingerprint
    file.write_bytes(forgery.resealed(content))


@pytest.mark.parametrize("arguments", RUNS.values(), ids=RUNS)
def test_the_metric_that_it_names_is_not_imported(gate: Gate, arguments: tuple[str, ...]) -> None:
    (gate.path / "trap.py").write_text("from pathlib import Path\nPath('sprung').touch()\ndef run(*_): pass\n")
    forge(gate, spec={"metric": "trap:run"})
    gate.run_subprocess(*arguments, "-p", "no:xdist")
    assert not (gate.path / "sprung").exists()


@pytest.mark.parametrize("arguments", RUNS.values(), ids=RUNS)
def test_the_task_that_it_names_is_no_place_to_write_to(gate: Gate, arguments: tuple[str, ...]) -> None:
    outside = {file for file in Path(gate.path).parent.iterdir() if file != gate.path}
    forge(gate, task={"name": "../../../escaped"})
    result = gate.run(*arguments)
    assert result.ret == (pytest.ExitCode.OK if arguments == RUNS["accepted"] else pytest.ExitCode.TESTS_FAILED)
    assert {file for file in Path(gate.path).parent.iterdir() if file != gate.path} == outside
    assert not list(gate.path.rglob("*escaped*"))
