"""No green run in which something else was compared than what was named."""

from __future__ import annotations

import pytest
import torch
from gate_folder import random_model, save_model
from gate_runner import Gate


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_that_fail_as_float32_fail_as_float64(gate: Gate, dtype: torch.dtype) -> None:
    """Both are judged by the limits of float32, and here drift alone is beyond them."""
    module = random_model()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1 + 2e-3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    save_model(module.to(dtype), gate.path / "worn")
    result = gate.run("--circuit-report-dir=out", "--circuit-candidate=worn")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (run,) = gate.report()["runs"]
    assert run["precision"] in ("f32", "float64")
    limits = {row["name"]: row["limit"] for row in run["criteria"] if row["verdict"] == "FAIL"}
    assert limits["drift_median"] == 1e-4
