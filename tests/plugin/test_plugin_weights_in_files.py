"""--circuit-device-map and --circuit-offload."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gate_runner import Gate

pytest.importorskip("accelerate")


def test_a_reference_whose_weights_stay_in_its_files_is_recorded_and_gated(gate: Gate) -> None:
    before = json.loads(gate.baseline_file("json").read_text())
    gate.remove_baseline()
    map_options = ("--circuit-device-map=disk", "--circuit-offload=weights")
    gate.run(*map_options, "--circuit-accept=new", "--circuit-reason=larger than memory")
    after = json.loads(gate.baseline_file("json").read_text())
    found, expected = ([unit["resample"] for unit in one["summary"]["units"]] for one in (after, before))
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert after["fingerprints"] == before["fingerprints"]
    assert "was not measured" in " ".join(after["notes"])
    result = gate.run(*map_options, "--circuit-report-dir=out")
    result.assert_outcomes(passed=4)
    assert any(note.startswith("Weights lie in files") for note in gate.report()["runs"][0]["notes"])


def test_a_folder_for_weights_needs_a_map(gate: Gate) -> None:
    result = gate.run("--circuit-offload=weights", "--circuit-report")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*say which lie there with --circuit-device-map*"])


def test_a_device_map_that_is_not_there(gate: Gate) -> None:
    result = gate.run("--circuit-device-map=nowhere.json", "--circuit-report")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*device map 'nowhere.json' is neither auto nor disk*"])
