"""Compiled models are measured uncompiled, say so, and stay compiled."""

from __future__ import annotations

import pytest
import tiny_circuits
import tiny_models
import torch
from quick_recording import record

from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.measure import measure
from circuitcheck.runtimes.pytorch.compiled import is_compiled, uncompiled
from circuitcheck.runtimes.pytorch.loading.load import hook_module
from circuitcheck.runtimes.pytorch.unchanged import unchanged

IDS = tiny_models.token_ids(2, 5)


@pytest.fixture(scope="module")
def baseline():
    reference = tiny_models.tiny_model("llama")
    return record(reference, tiny_circuits.solvable_task(reference), MeasurementSpec(draws=100))


def logits(module):
    with torch.no_grad():  # compiling looks at gradients, of which PyTorch warns
        return module(IDS).logits


def wrapped(module):
    return torch.compile(module, backend="eager")


def in_place(module):
    module.compile(backend="eager")
    return module


def one_part_in_place(module):
    module.model.layers[1].self_attn.compile(backend="eager")
    return module


def layers_wrapped(module):
    for number, layer in enumerate(module.model.layers):
        module.model.layers[number] = wrapped(layer)
    return module


def trunk_wrapped(module):
    module.model = wrapped(module.model)
    return module


def forward_replaced(module):
    module.forward = torch.compile(module.forward, backend="eager")
    return module


FORMS = [wrapped, in_place, one_part_in_place, layers_wrapped, trunk_wrapped, forward_replaced]


@pytest.mark.parametrize("ran_before", [False, True])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_compiled_model_is_measured_as_its_own_reference(baseline, form, ran_before):
    module = form(tiny_models.tiny_module("llama"))
    if ran_before:
        logits(module)
    candidate = hook_module(module, name="compiled")
    assert candidate.notes[0].startswith("compiled was compiled by torch.compile; it is measured uncompiled")
    measurement = measure(candidate, baseline, curves=False)
    assert measurement.circuit.drift_largest.value == 0
    assert candidate.notes[0] in measurement.notes


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_it_stays_compiled(form):
    module = form(tiny_models.tiny_module("llama"))
    expected = logits(module)
    parts = dict(module.named_modules())
    before = {path: dict(vars(part)) for path, part in parts.items()}
    hooked = hook_module(module)
    with unchanged(hooked):
        assert not is_compiled(hooked.module)
    assert is_compiled(module)
    assert dict(module.named_modules()) == parts
    for path, part in parts.items():
        now = vars(part)
        assert now.keys() == before[path].keys()
        for name in ("_compiled_call_impl", "forward"):
            assert now.get(name) is before[path].get(name)
    assert torch.equal(logits(module), expected)


def test_it_stays_compiled_after_an_error():
    module = layers_wrapped(in_place(tiny_models.tiny_module("llama")))
    call, layers = module._compiled_call_impl, list(module.model.layers)
    with pytest.raises(ZeroDivisionError), uncompiled(module):
        raise ZeroDivisionError
    assert module._compiled_call_impl is call
    assert list(module.model.layers) == layers


def test_a_model_that_is_not_compiled_has_no_note():
    module = tiny_models.tiny_module("llama")
    assert not is_compiled(module)
    assert hook_module(module).notes == ()
