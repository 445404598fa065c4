"""Patches that are carried out in parts give the numbers of all at once, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import tiny_circuits
import tiny_models
from fake_runtime import FakeRuntime, fake_task
from hypothesis import given, settings
from hypothesis import strategies as st
from patches import alone
from quick_recording import record

from circuitcheck.baseline.encoding import encode
from circuitcheck.core.patch import Patch
from circuitcheck.core.runtime import Divides, Part, Runtime, Work
from circuitcheck.core.specification import ABLATIONS, POSITIONS, MeasurementSpec
from circuitcheck.gate.measure import measure
from circuitcheck.gate.parts import InParts, add_notes, here, joined, parts_of
from circuitcheck.runtimes.pytorch.engine import sweep
from circuitcheck.runtimes.pytorch.hooked import HookedModel

PROMPTS = 14

# So many that no two layers of heads run together: 4 heads on 30 prompts of a length, and 204 or 170 rows in a batch.
MANY = 60


# Kinds of which all layers run together on few prompts.
FEW = [("head", PROMPTS, 1), ("block", PROMPTS, 1)]


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return tiny_models.tiny_model("llama", num_hidden_layers=3)


@pytest.fixture(scope="module")
def task(model: HookedModel):
    return tiny_circuits.solvable_task(model, PROMPTS)


def backwards(model: Runtime, patch: Patch, parts: Sequence, work: Work):
    """Carries parts out in another order than they were asked for."""
    return reversed(list(here(model, patch, parts, work)))


@pytest.mark.parametrize(("kind", "count", "layers"), [("head", MANY, 3), ("neuron", MANY, 3), *FEW])
@pytest.mark.parametrize("values", ABLATIONS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_parts_give_the_bits_of_all_at_once(model, kind, count, layers, values, positions):
    task = tiny_circuits.solvable_task(model, count)
    units = model.layout(kind).units[::7] if kind == "neuron" else model.layout(kind).units
    patch = Patch(kind, tuple((unit,) for unit in units), values, positions)
    prompts = task.prompts(range(1, count))
    whole = model.patched(prompts, patch, Work())
    parts = parts_of(model, prompts, patch, least=1)
    assert len(parts) == layers * (1 if values == "mean" else 2)
    for least in (1, parts[0].cost + 1, sum(part.cost for part in parts) / 2):
        assert np.array_equal(InParts(carry=backwards, least=least)(model, prompts, patch, Work()), whole)


def test_parts_run_the_positions_that_the_whole_runs(model, monkeypatch):
    """Two first tokens are alike: all twelve heads would save 720 tokens, those of one layer 240."""
    monkeypatch.setattr(sweep, "WORTHWHILE", 500 / 1024)
    prompts = tiny_circuits.solvable_task(model, MANY).prompts()
    patch, seen = Patch("head", alone(model.layout("head").units), "resample"), []
    last = model.module.get_submodule(model.structure.layers[-1].path)
    handle = last.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape[1]))
    whole = model.patched(prompts, patch)
    everything = seen[:]
    seen.clear()
    assert np.array_equal(InParts(least=1)(model, prompts, patch, Work()), whole)
    handle.remove()
    assert {3, 4} <= set(everything) == set(seen)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_every_row_is_in_one_part(model, data):
    task = data.draw(st.sampled_from([tiny_circuits.solvable_task(model, count) for count in (PROMPTS, MANY)]))
    units = model.layout("head").units
    sets = data.draw(st.lists(st.sets(st.sampled_from(units), max_size=4).map(tuple), max_size=8))
    index = data.draw(st.lists(st.integers(0, PROMPTS - 1), unique=True))
    patch, prompts = Patch("head", tuple(sets), data.draw(st.sampled_from(ABLATIONS))), task.prompts(index)
    seen = np.zeros((len(sets), len(index)), int)
    for part in parts_of(model, prompts, patch, data.draw(st.sampled_from([1, 2e6, 1e7, 1e9]))):
        columns = [prompts.columns[place] for place in part.prompts.index]
        seen[np.ix_(part.sets, columns)] += 1
        assert part.of(patch).sets == tuple(sets[number] for number in part.sets)
    assert (seen == 1).all()


def test_small_parts_are_joined_and_large_ones_are_not():
    one, other = fake_task().prompts([0, 1]), fake_task().prompts([2])
    atoms = [Part(prompts, (place,), cost) for prompts in (one, other) for place, cost in enumerate((5.0, 3.0, 1.0))]
    both = fake_task().prompts([0, 1, 2])
    assert joined(atoms, 1.0) == atoms
    assert [part.sets for part in joined(atoms, 4.0)] == [(0,), (1, 2), (0,), (1, 2)]
    assert [part.sets for part in joined(atoms, 6.0)] == [(0, 1, 2), (0, 1, 2)]
    assert joined(atoms, 10.0) == [Part(both, (0, 1, 2), 18.0)]
    assert joined([], 1.0) == []


def test_a_recording_and_a_measurement_in_parts_are_the_same(model, task):
    spec = MeasurementSpec(draws=100)
    reference = replace(model, fingerprints={"weights": "a" * 64, "tokenizer": "none"})
    # With two roundings, because copies of the model are divided, too.
    ways = reference.roundings()[:2]
    baseline = record(reference, task, spec, roundings=ways)
    assert encode(record(reference, task, spec, roundings=ways, execute=InParts(least=1))) == encode(baseline)
    candidate = tiny_circuits.scale_head(reference, 1, 1, 3.0)
    assert measure(candidate, baseline, execute=InParts(least=1)) == measure(candidate, baseline)


def test_a_function_of_the_whole_output_is_one_part(task):
    model = tiny_models.tiny_model("llama").measured_by("logit_difference")
    whole = replace(model, quantity=replace(model.quantity, name="a:b", function=lambda *_: None))
    patch = Patch("head", (((0, 0),), ((1, 0),)), "zero")
    assert [part.sets for part in parts_of(model, task.prompts(), patch, 1)] == [(0, 1)] * 2
    assert [part.sets for part in parts_of(whole, task.prompts(), patch, 1)] == [(0, 1)]


def test_a_runtime_that_cannot_divide_is_one_part():
    model, task = FakeRuntime(), fake_task()
    assert not isinstance(model, Divides)
    patch = Patch("head", (((0, 0),), ((0, 1),)), "zero")
    (part,) = parts_of(model, task.prompts(), patch)
    assert (part.prompts, part.sets) == (task.prompts(), (0, 1))
    assert np.array_equal(InParts()(model, task.prompts(), patch, Work()), model.patched(task.prompts(), patch, Work()))


def test_notes_of_parts_are_said_once_and_with_the_first_reason():
    notes = ["model: memory forced smaller batches; roundings may differ."]
    add_notes(notes, ["a: every intervention ran as a full pass, because x.", "a: b"])
    add_notes(notes, ["a: every intervention ran as a full pass, because y.", notes[0]])
    assert notes[1:] == ["a: every intervention ran as a full pass, because x.", "a: b"]
