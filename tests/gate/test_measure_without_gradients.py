"""Gradients come from the reference alone: a candidate's kernels may give none, or wrong ones, and no error."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_circuits
import tiny_models
import torch
from quick_recording import record
from torch import Tensor, nn

from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.measure import measure
from circuitcheck.runtimes.pytorch.hooked import HookedModel


class BackwardRanError(RuntimeError):
    """What the kernel below raises."""


class NoBackward(torch.autograd.Function):
    """The identity, whose backward pass must not run."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_: Any, __: Tensor) -> Tensor:
        raise BackwardRanError


def without_backward(model: HookedModel) -> HookedModel:
    """A copy in which no linear map can be differentiated through."""
    candidate = tiny_circuits.copy_of(model)
    for part in candidate.module.modules():
        if isinstance(part, nn.Linear):
            part.register_forward_hook(lambda _, __, output: NoBackward.apply(output))
    return candidate


@pytest.mark.parametrize("sweep", ["exact", "screened"])
@pytest.mark.parametrize("metric", ["logit_difference", "log_probability"])
def test_a_candidate_is_measured_without_a_backward_pass(
    sweep: Any, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = tiny_models.tiny_model()
    task = tiny_circuits.solvable_task(reference)
    baseline = record(reference, task, MeasurementSpec(draws=200, sweep=sweep, metric=metric))
    candidate = without_backward(reference)
    with pytest.raises(BackwardRanError):
        record(candidate, task)  # the kernel above is at work

    def refuse(*_: Any, **__: Any) -> Any:
        raise BackwardRanError

    for place, name in ((torch.autograd, "grad"), (torch.autograd, "backward"), (Tensor, "backward")):
        monkeypatch.setattr(place, name, refuse)
    monkeypatch.setattr(torch.autograd.graph, "_engine_run_backward", refuse)
    circuit = measure(candidate, baseline).circuit
    assert circuit is not None
    assert circuit.metric_change.value == 0
    assert circuit.drift_largest.value < 1e-6  # its maps are asked what they write, in float32
