"""The float32 form of a model says what the model in PyTorch says: heads, logits, writes, and every patch."""

from __future__ import annotations

import numpy as np
import onnx_graphs
import onnx_releases
import pytest
import tiny_circuits
import tiny_models

from circuitcheck.core.errors import MemoryBudgetError, SiteError
from circuitcheck.core.patch import Patch
from circuitcheck.core.runtime import Work
from circuitcheck.runtimes.onnx.from_onnx import load_onnx
from circuitcheck.runtimes.pytorch.loading.load import hook_module

FORMS = {
    "llama": onnx_releases.export,
    "gpt2": onnx_releases.export,
    "gpt_neox": onnx_releases.export,
    "gemma2": onnx_releases.export,
    "llama-wide-heads": onnx_graphs.llama_with_past,
}
"""Written-out norms, products with a bias, norms that are one operator, capped logits, and fused attention."""

# Logits of up to 20, in float32, summed in another order.
CLOSE = 5e-5


@pytest.fixture(scope="module", params=FORMS)
def pair(request, tmp_path_factory):
    """The reference, its file in ONNX Runtime, proven, and a task that both solve."""
    module = tiny_models.tiny_module(request.param)
    reference = hook_module(module, name=request.param)
    file = FORMS[request.param](module, tmp_path_factory.mktemp(request.param) / "model.onnx")
    task = tiny_circuits.solvable_task(reference, 6)
    model = load_onnx(file).probed(task.prompts())
    model.prove(task.prompts(), "head")
    return reference, model, task


def test_it_has_the_same_heads(pair):
    reference, model, _ = pair
    assert model.layout("head") == reference.layout("head")
    theirs, ours = reference.facts.architecture, model.facts.architecture
    assert ours == {key: theirs[key] for key in ours}
    assert (model.facts.precision, model.facts.vocabulary) == ("f32", tiny_models.VOCABULARY)
    assert model.facts.census.is_float32
    assert model.facts.batch_size is None
    assert any(note.startswith("Executed by ONNX Runtime") for note in model.facts.notes)
    assert any("and changes nothing else" in note for note in model.facts.notes)


def test_heads_and_logits_are_the_same(pair):
    reference, model, task = pair
    prompts = task.prompts()
    for ours, theirs in zip(
        model.activations(prompts, "head").groups, reference.activations(prompts, "head").groups, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=CLOSE, rtol=0)
    for metric in ("logit_difference", "log_probability"):
        ours, theirs = model.measured_by(metric), reference.measured_by(metric)
        np.testing.assert_allclose(ours.metric(prompts), theirs.metric(prompts), atol=CLOSE, rtol=0)
    np.testing.assert_allclose(
        model.metric(prompts, counterfactual=True), reference.metric(prompts, counterfactual=True), atol=CLOSE, rtol=0
    )
    ours, theirs = model.next_token(prompts), reference.next_token(prompts)
    np.testing.assert_array_equal(ours.likeliest, theirs.likeliest)
    np.testing.assert_allclose(ours.log_probabilities, theirs.log_probabilities, atol=CLOSE, rtol=0)


def test_heads_write_the_same(pair):
    reference, model, _ = pair
    tokens = range(0, tiny_models.VOCABULARY, 3)
    ours, theirs = model.reading("head", tokens), reference.reading("head", tokens)
    assert ours.source == theirs.source == "unembedding"
    for one, other in zip(ours.maps, theirs.maps, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("values", "positions"), [("resample", "all"), ("mean", "all"), ("zero", "answer"), ("given", "answer")]
)
def test_every_head_that_is_replaced_has_the_same_effect(pair, values, positions):
    reference, model, task = pair
    prompts, units = task.prompts(), reference.layout("head").units
    given = reference.replacements(prompts, Patch("head", (), "resample", positions)) if values == "given" else values
    patch = Patch("head", (*((unit,) for unit in units), units[:3], ()), given, positions)
    np.testing.assert_allclose(
        model.patched(prompts, patch, Work()), reference.patched(prompts, patch), atol=2 * CLOSE, rtol=0
    )
    ours, theirs = model.replacements(prompts, patch), reference.replacements(prompts, patch)
    assert ours.lengths == theirs.lengths
    for one, other in zip(ours.groups, theirs.groups, strict=True):
        np.testing.assert_allclose(one, other, atol=CLOSE, rtol=0)


def test_a_budget_bounds_the_rows_of_a_pass(pair):
    """The same numbers from a few rows at once; not one row fits a kilobyte."""
    _, model, task = pair
    prompts = task.prompts()
    patch = Patch("head", tuple((unit,) for unit in model.layout("head").units), "zero")
    longest = max(len(pair.clean) for pair in task.pairs)
    few = model.patched(prompts, patch, Work(2 * model.runner.row_bytes(longest)))
    np.testing.assert_allclose(few, model.patched(prompts, patch), atol=CLOSE, rtol=0)
    with pytest.raises(MemoryBudgetError, match="memory budget is 1,000 bytes"):
        model.patched(prompts, patch, Work(1000))


def test_whole_attentions_and_mlps_are_the_same(pair):
    """Where norms stand between a product and the stream, as in Gemma 2, they are refused."""
    reference, model, task = pair
    if reference.name == "gemma2":
        with pytest.raises(SiteError, match="cannot be told apart"):
            model.layout("block")
        return
    prompts = task.prompts()
    model.prove(prompts, "block")
    assert model.layout("block") == reference.layout("block")
    for ours, theirs in zip(
        model.activations(prompts, "block").groups, reference.activations(prompts, "block").groups, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=CLOSE, rtol=0)
    patch = Patch("block", tuple((unit,) for unit in model.layout("block").units), "resample")
    np.testing.assert_allclose(model.patched(prompts, patch), reference.patched(prompts, patch), atol=2 * CLOSE, rtol=0)
    ours, theirs = (side.reading("block", [1, 7, 30]) for side in (model, reference))
    assert len(ours.distinct_maps) == len(theirs.distinct_maps) == 1
    np.testing.assert_allclose(ours.maps[0], theirs.maps[0], atol=1e-5, rtol=0)


def test_some_units_and_others_are_refused(pair):
    _, model, _ = pair
    assert model.narrowed(model.layout("head")) is model
    with pytest.raises(SiteError, match="all heads are measured"):
        model.narrowed(model.layout("head").only([(0, 1)]))
    with pytest.raises(SiteError, match="head, block, not 'neuron'"):
        model.layout("neuron")
