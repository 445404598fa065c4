"""Ports are proven once for a module, a kind of unit and a length of prompts, and never taken as proven elsewhere."""

from __future__ import annotations

import pytest
import tiny_circuits
import tiny_models
from quick_recording import record

from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.measure import measure
from circuitcheck.runtimes.pytorch import hooked


@pytest.fixture
def proofs(monkeypatch) -> list[tuple[str, int]]:
    """Kind of unit and module of every proof that was run."""
    run: list[tuple[str, int]] = []
    real = hooked.prove

    def prove(model, ids, kind):
        run.append((kind, id(model.module)))
        real(model, ids, kind)

    monkeypatch.setattr(hooked, "prove", prove)
    return run


def test_one_module_is_proven_once_for_all_tasks_and_a_copy_of_it_for_itself(proofs):
    model = tiny_models.tiny_model()
    task = tiny_circuits.solvable_task(model)
    baseline = record(model, task, MeasurementSpec(draws=100))
    for _ in range(2):
        measure(model, baseline)
    # What is recorded of heads holds whole modules, too.
    assert proofs == [("head", id(model.module)), ("block", id(model.module))]
    measure(model, record(model, task, MeasurementSpec(draws=100, unit="block")))
    assert proofs == [("head", id(model.module)), ("block", id(model.module))]
    copy = tiny_circuits.copy_of(model)  # shares everything but the module
    measure(copy, baseline)
    assert proofs[2:] == [("head", id(copy.module))]
