"""`benchmarks/device.py --dry-run`: everything but the device."""

from __future__ import annotations

import json
import sys

import device
import pytest


def test_a_dry_run_measures_everything_and_writes_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["device.py", "--dry-run", "--json", str(tmp_path / "device.json")])
    device.main()
    found = json.loads((tmp_path / "device.json").read_text())
    assert found["left_out"] == []
    assert found["tf32"] is False
    assert found["tests"]["exit_code"] == 0
    assert set(found["sweeps"]) == {"tiny float32", "tiny bfloat16"}
    for sweep in found["sweeps"].values():
        assert sweep["seconds"] > 0
        assert 0 < sweep["peak_share"] < 1
        assert sweep["ratio_vs_full"] > 0
    # Sums of float32 in another order, of logits of about 1.
    assert found["sweeps"]["tiny float32"]["max_difference"] < 1e-5
    assert found["int8"]["quantized"] == found["int8"]["projections"] > 0


def test_what_the_time_does_not_reach_is_named(capsys):
    found = device.measure(device.torch.device("cpu"), device.Clock(0), is_dry=True)
    assert found["left_out"] == ["tests", "tiny float32", "tiny bfloat16", "int8"]


@pytest.mark.skipif(device.torch.cuda.is_available(), reason="a CUDA device is present")
def test_without_a_device_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["device.py"])
    with pytest.raises(SystemExit):
        device.main()
    assert "there is no CUDA device here; --dry-run" in capsys.readouterr().err
