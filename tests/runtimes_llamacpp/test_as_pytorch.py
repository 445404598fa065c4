"""In float32, llama.cpp computes what PyTorch does: values of heads, logits, and what other values do to them."""

from __future__ import annotations

import numpy as np
import pytest

from circuitcheck.core.errors import ConfigurationError, MemoryBudgetError, SiteError
from circuitcheck.core.metric import Metric
from circuitcheck.core.patch import Patch
from circuitcheck.core.runtime import Work
from circuitcheck.core.units import Group, Layout

CLOSE = 5e-5
"""Two libraries sum in other orders, and approximate exponentials otherwise; 2e-5 was seen."""


@pytest.fixture(scope="module")
def both(llama):
    return llama.reference, llama.load(llama.write("F32")), llama.task.prompts()


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)


def test_facts(both):
    reference, candidate, _ = both
    facts = candidate.facts
    assert (facts.name, facts.precision, facts.vocabulary) == ("F32", "f32", 50)
    ours = reference.facts.architecture
    assert facts.architecture == {key: ours[key] for key in ("n_layers", "n_heads", "d_head")}
    assert facts.environment["libraries"]["llama-cpp-python"]
    assert facts.environment["instruction_set"] == reference.facts.environment["instruction_set"]
    (note,) = facts.notes
    for said in ("Runs in llama.cpp (llama-cpp-python ", "AVX2", "on 1 thread(s)", "flash attention off", "cache f32"):
        assert said in note
    assert candidate.layout("head") == reference.layout("head")


@pytest.mark.parametrize("metric", ["logit_difference", "log_probability"])
@pytest.mark.parametrize("counterfactual", [False, True])
def test_the_metric(both, metric, counterfactual):
    reference, candidate, prompts = both
    found, expected = (
        model.measured_by(metric).metric(prompts, counterfactual=counterfactual) for model in (candidate, reference)
    )
    assert found.dtype == np.float32
    assert_close(found, expected)


def test_the_next_token(both):
    reference, candidate, prompts = both
    expected = reference.next_token(prompts)
    found = candidate.next_token(prompts, expected.tokens)
    assert (found.likeliest == expected.likeliest).all()
    assert_close(found.log_probabilities, expected.log_probabilities)
    assert (candidate.next_token(prompts).tokens[:, 0] == expected.likeliest).all()


def test_values_of_heads_and_how_they_are_read(both):
    reference, candidate, prompts = both
    found, expected = (model.activations(prompts, "head") for model in (candidate, reference))
    assert (found.index, found.lengths) == (expected.index, expected.lengths)
    for ours, theirs in zip(found.groups, expected.groups, strict=True):
        assert_close(ours, theirs)
    tokens = range(0, 50, 3)
    read, expected_reading = (model.reading("head", tokens) for model in (candidate, reference))
    assert (read.source, read.tokens) == (expected_reading.source, expected_reading.tokens)
    for ours, theirs in zip(read.maps, expected_reading.maps, strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("values", ["resample", "mean", "zero"])
@pytest.mark.parametrize("positions", ["all", "answer"])
def test_patches_of_single_heads_and_of_many(both, values, positions):
    reference, candidate, prompts = both
    units = reference.layout("head").units
    patch = Patch("head", (*((unit,) for unit in units), units, units[::3], ()), values, positions)
    found, expected = (model.patched(prompts, patch, Work()) for model in (candidate, reference))
    assert_close(found, expected)
    assert np.abs(expected - reference.metric(prompts)).max() > 100 * CLOSE
    for ours, theirs in zip(
        candidate.replacements(prompts, patch).groups, reference.replacements(prompts, patch).groups, strict=True
    ):
        assert_close(ours, theirs)


@pytest.mark.parametrize("kept", ["all", "answer"])
def test_given_values(both, kept):
    """Those of the reference's counterfactuals, put into all positions or the last."""
    reference, candidate, prompts = both
    units = reference.layout("head").units
    values = reference.replacements(prompts, Patch("head", (), "resample"))
    values = values if kept == "all" else values.answer_position()
    patch = Patch("head", (units[:3], units[5:]), values)
    assert_close(candidate.patched(prompts, patch), reference.patched(prompts, patch))


def test_some_neurons_of_many(both):
    """Which are chosen by their numbers, of both layers or one; heads stay as they are."""
    reference, candidate, prompts = both
    chosen = reference.layout("neuron").only([(0, 3), (0, 120), (1, 0), (1, 64), (1, 127)])
    for layout in (chosen, chosen.only([(1, 1)])):
        ours, theirs = (model.narrowed(layout) for model in (candidate, reference))
        assert ours.layout("neuron") == layout
        assert ours.layout("head") == reference.layout("head")
        ours.prove(prompts, "neuron")
        for mine, other in zip(
            ours.activations(prompts, "neuron").groups, theirs.activations(prompts, "neuron").groups, strict=True
        ):
            assert_close(mine, other)
        for mine, other in zip(ours.reading("neuron", (1, 7)).maps, theirs.reading("neuron", (1, 7)).maps, strict=True):
            assert_close(mine, other)
        patch = Patch("neuron", (*((unit,) for unit in layout.units), layout.units), "resample")
        assert_close(ours.patched(prompts, patch), theirs.patched(prompts, patch, Work()))
    assert ours.narrowed(reference.layout("neuron")).layout("neuron") == reference.layout("neuron")
    with pytest.raises(SiteError, match="has no neurons like those of neuron 0"):
        candidate.narrowed(Layout("neuron", (Group("neuron 0", 0, 5, 1),)))


def test_some_prompts_in_another_order(both):
    reference, candidate, _ = both
    task = both[2].task
    prompts = task.prompts((7, 2, 5))
    patch = Patch("head", (((0, 1),),), "resample")
    assert_close(candidate.patched(prompts, patch), reference.patched(prompts, patch))
    assert_close(candidate.patched(prompts, patch)[:, ::-1], candidate.patched(task.prompts((5, 2, 7)), patch))


def test_fewer_rows_at_once_give_the_same(both, llama):
    """One row at a time, where there are no companions; counted, and progress is told."""
    _, candidate, prompts = both
    patch = Patch("head", tuple((unit,) for unit in candidate.layout("head").units), "resample")
    rows: list[int] = []
    expected = candidate.patched(prompts, patch, Work(advance=rows.append))
    assert sum(rows) == expected.size
    single = llama.load(llama.write("F32"))
    single.passes.most = 1
    assert_close(single.patched(prompts, patch), expected)
    assert_close(single.metric(prompts), candidate.metric(prompts))


def test_a_budget_that_not_even_one_row_fits(both):
    _, candidate, prompts = both
    with pytest.raises(MemoryBudgetError, match=r"one row of 5 positions takes \d+ bytes .* the budget is 1000"):
        candidate.patched(prompts, Patch("head", (((0, 0),),), "zero"), Work(memory=1000))


def test_what_it_cannot_do_is_refused(both):
    _, candidate, prompts = both
    with pytest.raises(ConfigurationError, match="gives no gradients: it is no reference"):
        candidate.gradient(prompts, "head")
    with pytest.raises(ConfigurationError, match=r"function of a PyTorch model's output.*--circuit-runtime=pytorch"):
        candidate.measured_by(Metric("mine:metric", lambda *_: None))
    with pytest.raises(SiteError, match="not 'feature'"):
        candidate.layout("feature")
    assert (candidate.variations(), candidate.roundings()) == ((), ())
