"""A mixture of experts is gated by its neurons, and what its routers choose is compared and reported."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_circuits
import tiny_models
import torch
from quick_recording import record

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.core.errors import BaselineError
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.judge import judge
from circuitcheck.gate.measure import measure
from circuitcheck.report.document import document, run_entry
from circuitcheck.report.html.page import render_html
from circuitcheck.report.markdown import render_markdown
from circuitcheck.report.text import render
from circuitcheck.runtimes.pytorch.quantizers.rtn import quantize_rtn

SPEC = MeasurementSpec(unit="neuron", draws=200)


@pytest.fixture(scope="module")
def model():
    return tiny_models.tiny_model("mixtral-routed")


@pytest.fixture(scope="module")
def baseline(model):
    return record(model, tiny_circuits.solvable_task(model), SPEC)


def other_router(model):
    """The same model, whose router of layer 1 prefers its experts in the opposite order."""
    candidate = replace(tiny_circuits.copy_of(model), precision="int8-rtn")
    with torch.no_grad():
        candidate.module.model.layers[1].mlp.gate.weight.neg_()
    return candidate


@pytest.fixture(scope="module")
def rerouted(model, baseline):
    return judge(measure(other_router(model), baseline, curves=False))


def test_the_reference_measured_against_itself_changes_nothing(model, baseline):
    circuit = measure(replace(tiny_circuits.copy_of(model), precision="int8-rtn"), baseline).circuit
    assert circuit.routing.changed.value == 0
    for layer in circuit.routing.layers:
        assert layer.reference == layer.candidate
        assert sum(layer.reference) == pytest.approx(2), "each token is given to two"
    # Which tokens share an expert's product depends on what else runs, and with it how sums are rounded.
    assert circuit.profile_distance.value < 1e-5


def test_shares_and_changes_are_those_of_the_recorded_choices(model, baseline, rerouted):
    found = rerouted.measurement.circuit.routing
    theirs = other_router(model).routes(baseline.part)
    tokens = sum(len(baseline.task.pairs[place].clean) for place in baseline.part.index)
    assert found.tokens == tokens == len(theirs[0].chosen)
    changed = [(ours.chosen != own.chosen).any(1) for ours, own in zip(baseline.routes, theirs, strict=True)]
    assert [layer.changed for layer in found.layers] == [one.mean() for one in changed]
    assert found.layers[0].changed == 0
    assert found.layers[1].changed > 0.5
    assert found.changed.value == pytest.approx(np.mean(changed))
    assert found.changed.low <= found.changed.value <= found.changed.high
    expert = [(theirs[1].chosen == number).any(1).mean() for number in range(4)]
    assert found.layers[1].candidate == pytest.approx(expert)


def test_another_router_is_never_passed_and_rounding_does_not_fail(model, baseline, rerouted):
    """These few prompts may leave the verdict open; the metric is what it cost."""
    assert rerouted.word != "PASS"
    assert rerouted.measurement.circuit.metric_change.value > 0.2
    rounded = replace(tiny_circuits.copy_of(model), precision="int8-rtn")
    quantize_rtn(rounded.module, rounded.structure, 8)
    assert judge(measure(rounded, baseline)).word != "FAIL"


def test_every_report_says_it(rerouted):
    entry = run_entry(rerouted)
    assert [layer["layer"] for layer in entry["routing"]["layers"]] == [0, 1]
    whole = document([entry])
    assert "The router's choice" in render([rerouted])
    assert "The router's choice" in render_markdown(whole)
    assert "Share of tokens by expert, reference" in render_html(whole)


def test_it_is_in_the_baseline_and_what_contradicts_it_is_refused(baseline, tmp_path):
    loaded = Baseline.load(baseline.save(tmp_path / "right")[0])
    assert [one.layer for one in loaded.routes] == [0, 1]
    assert all(
        np.array_equal(one.chosen, other.chosen) for one, other in zip(loaded.routes, baseline.routes, strict=True)
    )
    wrong = replace(baseline.routes[0], chosen=baseline.routes[0].chosen + 2)
    with pytest.raises(BaselineError, match="router of layer 0 chose"):
        replace(baseline, routes=(wrong, baseline.routes[1])).save(tmp_path / "wrong")


def test_a_runtime_that_does_not_show_it_is_said_to(model, baseline):
    class Silent(type(model)):
        routes = None

    candidate = replace(tiny_circuits.copy_of(model), precision="int8-rtn")
    silent = Silent(**{name: getattr(candidate, name) for name in candidate.__dataclass_fields__})
    measurement = measure(silent, baseline)
    assert measurement.circuit.routing is None
    assert any("router's choice" in note and "does not show it" in note for note in measurement.notes)
