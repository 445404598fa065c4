"""A screened baseline: some heads are measured exactly, and nothing stands for the others."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny_circuits
import tiny_models
from quick_recording import record

from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.judge import judge
from circuitcheck.gate.measure import measure
from circuitcheck.report.text import render


@pytest.fixture(scope="module")
def model():
    return tiny_models.tiny_model("gpt_neox", num_hidden_layers=4, num_attention_heads=8, hidden_size=32)


@pytest.fixture(scope="module")
def baselines(model):
    task = tiny_circuits.solvable_task(model)
    return {sweep: record(model, task, MeasurementSpec(sweep=sweep)) for sweep in ("exact", "screened")}


def test_only_some_heads_are_measured_and_exactly(baselines):
    exact, screened = baselines["exact"], baselines["screened"]
    # 32 heads: a quarter by their gradients, and at least 20 of the rest at random.
    assert len(screened.measured) == 28
    assert set(screened.measured) < set(screened.layout.units) == set(exact.measured)
    places = [exact.measured.index(head) for head in screened.measured]
    for kind in ("resample", "mean", "zero"):
        # Other heads share the batch, so float32 sums may be taken in another order.
        np.testing.assert_allclose(screened.ablated[kind], exact.ablated[kind][places], rtol=1e-5, atol=1e-6)


def test_what_may_have_been_missed_is_said(baselines, model):
    assert baselines["exact"].notes == ()
    (note,) = baselines["screened"].notes
    assert "28 of 32 heads were measured, 8 by their gradient and 20 at random; among the 4 others" in note
    assert note in measure(model, baselines["screened"]).notes


def test_heads_that_were_left_out_have_no_importance(baselines, model):
    baseline = baselines["screened"]
    measurement = measure(model, baseline)
    left_out = set(baseline.layout.units) - set(baseline.measured)
    for head in measurement.circuit.units:
        is_left_out = (head.layer, head.column) in left_out
        assert math.isnan(head.importance_ref.value) == is_left_out
        assert (head.rank_ref is None) == is_left_out
        assert head.drift == 0
    assert measurement.circuit.profile_distance.value == 0
    assert measurement.circuit.ranking.agreement.value == 1


def test_the_report_does_not_call_them_broken(baselines, model):
    shown = render([judge(measure(model, baselines["screened"]))])
    assert "BROKEN" not in shown
    assert "None" not in shown
