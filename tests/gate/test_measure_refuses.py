"""Candidates that cannot be compared are refused with everything that is wrong with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_circuits
import tiny_models
from quick_recording import record

from circuitcheck.core.errors import CandidateError, CircuitcheckError, SiteError
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.measure import measure, require_comparable


@pytest.fixture(scope="module")
def reference():
    return tiny_models.tiny_model()


@pytest.fixture(scope="module")
def baseline(reference):
    return record(reference, tiny_circuits.solvable_task(reference), MeasurementSpec(draws=100))


@pytest.mark.parametrize(
    ("name", "settings", "differences"),
    [
        ("gpt2", {}, ["class is GPT2LMHeadModel, the reference's is GPTNeoXForCausalLM"]),
        ("gpt_neox", {"num_hidden_layers": 3}, ["n_layers is 3, the reference's is 2"]),
        ("gpt_neox", {"num_attention_heads": 8}, ["n_heads is 8, the reference's is 4", "d_head is 4,"]),
        ("gpt_neox", {"hidden_size": 64}, ["d_head is 16, the reference's is 8"]),
        ("llama-wide-heads", {"num_hidden_layers": 1}, ["class is Llama", "n_layers is 1", "d_head is 16"]),
    ],
)
def test_other_shape_is_refused_naming_every_difference(baseline, name, settings, differences):
    candidate = tiny_models.tiny_model(name, **settings)
    with pytest.raises(CandidateError, match="cannot be compared with gpt_neox") as caught:
        measure(candidate, baseline)
    assert all(difference in str(caught.value) for difference in differences)
    assert str(caught.value).count("the reference's is") == len(differences)
    assert "made from the reference" in str(caught.value)


def test_other_shape_is_refused_for_an_unsolved_task_too(reference):
    unsolved = record(reference, tiny_circuits.unsolvable_task(reference))
    with pytest.raises(CandidateError, match="n_layers is 1"):
        measure(tiny_models.tiny_model(num_hidden_layers=1), unsolved)


def test_fewer_heads_in_a_later_layer_are_refused(reference, baseline):
    sites = reference.structure.layers
    fewer = replace(reference.structure, layers=(sites[0], replace(sites[1], n_heads=3)))
    with pytest.raises(CandidateError, match="it has 7 heads, the reference 8"):
        measure(replace(reference, structure=fewer), baseline)


def test_smaller_vocabulary_is_refused(reference, baseline):
    needed = 1 + max(
        token for pair in baseline.task.pairs for token in (*pair.clean, *pair.counterfactual, pair.answer, pair.foil)
    )
    candidate = tiny_circuits.copy_of(reference)
    candidate.module.resize_token_embeddings(needed)
    require_comparable(candidate, baseline)
    candidate.module.resize_token_embeddings(needed - 1)
    with pytest.raises(CandidateError, match=f"it knows {needed - 1} token ids, the prompts need {needed}"):
        measure(candidate, baseline)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["attention.dense.weight", "mlp.dense_h_to_4h.bias", "attention.query_key_value.bias"])
def test_weights_that_are_not_finite_are_refused(reference, baseline, value, part):
    candidate = tiny_circuits.copy_of(reference)
    candidate.module.gpt_neox.layers[1].get_parameter(part).data.flatten()[0] = value
    with pytest.raises(CircuitcheckError, match="NaN or infinite"):
        measure(candidate, baseline)


def test_nan_that_only_some_prompts_reach_is_refused_and_counted(reference, baseline):
    candidate = tiny_circuits.copy_of(reference)
    pairs = baseline.task.pairs
    probed = {token for pair in pairs[:4] for token in pair.clean}
    word = next(token for pair in pairs for token in pair.clean if token not in probed)
    candidate.module.gpt_neox.embed_in.weight.data[word] = float("nan")
    struck = sum(word in pair.clean for pair in pairs)
    with pytest.raises(
        CandidateError, match=f"candidate .f32. on task 'tiny': {struck} of 8 logit differences are NaN"
    ):
        measure(candidate, baseline)


def test_nan_under_ablation_is_refused(reference, baseline):
    """A word of a counterfactual only, so that the clean passes are finite."""
    candidate = tiny_circuits.copy_of(reference)
    clean = {token for pair in baseline.task.pairs for token in pair.clean}
    word = next(token for pair in baseline.task.pairs for token in pair.counterfactual if token not in clean)
    candidate.module.gpt_neox.embed_in.weight.data[word] = float("nan")
    with pytest.raises(CandidateError, match="logit differences under resample ablation are NaN or infinite"):
        measure(candidate, baseline)


def test_dead_layer_is_refused_by_the_proof(reference, baseline):
    """Output weights that are all zero: no head of the layer can be measured, and that is no pass."""
    candidate = tiny_circuits.copy_of(reference)
    candidate.module.gpt_neox.layers[1].attention.dense.weight.data.zero_()
    with pytest.raises(SiteError, match=r"layer 1, .*zeroing all of the layer's heads leaves the logits as they were"):
        measure(candidate, baseline)


@pytest.mark.parametrize("what", ["reading", "next_token"])
def test_token_ids_that_the_candidate_does_not_know_are_refused(reference, baseline, what):
    """As in a baseline of a stranger's: the model would fail on them in its own way."""
    if what == "reading":
        tokens = (*baseline.reading.tokens[:-1], 10**6)
        forged = replace(baseline, reading=replace(baseline.reading, tokens=tokens))
    else:
        tokens = np.full_like(baseline.next_token.tokens, 10**6)
        forged = replace(baseline, next_token=replace(baseline.next_token, tokens=tokens))
    with pytest.raises(CandidateError, match="it knows 50 token ids, the prompts need 1000001"):
        measure(reference, forged)
