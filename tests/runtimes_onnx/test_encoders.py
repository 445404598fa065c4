"""A BERT in ONNX Runtime, measured by a Python function of its output."""

from __future__ import annotations

import metric_functions
import numpy as np
import onnx_releases
import pytest
import tiny_models
import torch
from metric_functions import MASK
from quick_recording import record

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.judge import judge
from circuitcheck.gate.measure import measure
from circuitcheck.runtimes.onnx.from_onnx import load_onnx
from circuitcheck.runtimes.pytorch.loading.load import hook_module

METRICS = {"bert": metric_functions.masked_difference, "bert-classifier": metric_functions.class_difference}
# Logits of about 5 in float32, summed in another order.
CLOSE = 2e-5


def masked_task(module):
    """Random prompts with a mask in the middle, and what the model says there and what it says least."""
    generator = torch.Generator().manual_seed(5)
    pairs = []
    for number in range(48):
        ids = torch.randint(MASK + 1, tiny_models.VOCABULARY, (1, 5 + number % 2), generator=generator)
        ids[0, 2] = MASK
        other = ids.clone()
        other[0, 1] = MASK + 1 + (ids[0, 1] - MASK) % (tiny_models.VOCABULARY - MASK - 1)
        with torch.no_grad():
            logits = module(ids).logits[0]
        logits = logits[2] if logits.dim() == 2 else logits
        clean, counterfactual = tuple(ids[0].tolist()), tuple(other[0].tolist())
        pairs.append(
            PromptPair(clean, counterfactual, int(logits.argmax()), int(logits.argmin()), f"cluster {number % 6}")
        )
    return Task("masked", tuple(pairs))


@pytest.fixture(scope="module", params=METRICS)
def gated(request, tmp_path_factory):
    module = tiny_models.tiny_module(request.param)
    reference = hook_module(module, name=request.param, metric=METRICS[request.param])
    baseline = record(reference, masked_task(module), MeasurementSpec(draws=200, margin=0.1))
    file = onnx_releases.export(module, tmp_path_factory.mktemp(request.param) / "model.onnx")
    return reference, baseline, load_onnx(file)


def test_it_passes_and_writes_the_same(gated):
    reference, baseline, model = gated
    candidate = model.measured_by(reference.quantity)
    measurement = measure(candidate, baseline)
    assert str(judge(measurement).word) == "PASS"
    assert measurement.circuit.drift_largest.value < 1e-4
    prompts = baseline.task.prompts()
    np.testing.assert_allclose(candidate.metric(prompts), reference.metric(prompts), atol=CLOSE, rtol=0)
    ours, theirs = model.reading("head", range(20)), reference.reading("head", range(20))
    assert ours.source == theirs.source
    for one, other in zip(ours.maps, theirs.maps, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=0)


def test_a_function_is_not_imported_by_its_name(gated):
    _, baseline, model = gated
    with pytest.raises(ConfigurationError, match="never imported"):
        measure(model, baseline)
