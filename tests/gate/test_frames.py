"""From `measure(candidate, baseline)` to a forward pass a reader passes few functions of ours."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import tiny_circuits
import tiny_models
from quick_recording import record

import circuitcheck
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.measure import measure
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.load import hook_module

MOST = 9
PACKAGE = str(Path(circuitcheck.__file__).parent)


def own_frames() -> tuple[str, ...]:
    """Functions of the package on the stack, the caller's first."""
    found, frame = [], sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            found.append(frame.f_code.co_qualname)
        frame = frame.f_back
    return tuple(reversed(found))


def watch(monkeypatch: pytest.MonkeyPatch, model: HookedModel) -> Counter[tuple[str, ...]]:
    """Counts the ways in which a forward pass of the model, or of a layer of it, is reached."""
    seen: Counter[tuple[str, ...]] = Counter()

    def watched(forward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(forward)
        def run(*arguments: Any, **options: Any) -> Any:
            seen[own_frames()] += 1
            return forward(*arguments, **options)

        return run

    for part in (type(model.module), *{type(layer) for layer in model.module.gpt_neox.layers}):
        monkeypatch.setattr(part, "forward", watched(part.forward))
    return seen


@pytest.mark.parametrize("unit", ["head", "block"])
@pytest.mark.parametrize("engine", ["replay", "full"])
def test_measure_reaches_a_forward_pass_in_few_frames(unit, engine, monkeypatch):
    model = tiny_models.tiny_model()
    metric = "logit_difference" if engine == "replay" else "metric_functions:last_difference"
    spec = MeasurementSpec(draws=100, unit=unit, metric=metric)
    baseline = record(model, tiny_circuits.solvable_task(model), spec)
    candidate = hook_module(tiny_circuits.scale_head(model, 0, 1, -3.0).module, precision="int8-rtn", metric=metric)
    seen = watch(monkeypatch, candidate)
    measured = measure(candidate, baseline)
    assert measured.circuit is not None
    assert measured.circuit.repair.curves, "repairs ran, too"
    assert any("full pass" in note for note in measured.notes) == (engine == "full")
    assert {way[0] for way in seen} == {"measure"}
    assert any("run_wave" in way for way in seen) == (engine == "replay")
    deepest = max(seen, key=len)
    assert len(deepest) <= MOST, " > ".join(deepest)
