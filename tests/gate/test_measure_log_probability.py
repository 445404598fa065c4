"""A log-probability is near 0 where the reference is sure, so changes of it are measured and judged in nats."""

from __future__ import annotations

import pytest
from quick_recording import record

from circuitcheck import MeasurementSpec, judge, load_model, load_task, measure


def test_what_int8_sim_changes_is_judged_in_nats() -> None:
    """Relative to -0.017 nats it was a change of up to 0.31, which is no pass."""
    reference = load_model("embedded")
    task = load_task("ioi", reference.tokenizer, prompts=64)
    baseline = record(reference, task, MeasurementSpec(metric="log_probability"))
    measurement = measure(load_model("embedded", "int8-sim"), baseline, curves=False)
    circuit = measurement.circuit
    assert circuit is not None
    change = abs(circuit.metric_cand.value - circuit.metric_ref.value)
    assert circuit.metric_change.value == pytest.approx(change, rel=1e-6)
    assert circuit.metric_change.value == pytest.approx(0.0024, abs=2e-4)
    assert circuit.repair.unrepaired.value == pytest.approx(0.0018, abs=2e-4)
    found = {judgement.name: judgement for judgement in judge(measurement).criteria}
    for name, limit in (("metric_change", 0.2), ("unrepaired", 0.2)):
        assert (found[name].verdict, found[name].limit, found[name].unit) == ("PASS", limit, "nats")
    assert "recovery" not in found, "damage of 0.003 nats need not be recovered"
