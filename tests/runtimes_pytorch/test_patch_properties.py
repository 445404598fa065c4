"""What holds of patches whatever the model's weights and the prompts."""

from __future__ import annotations

import micro_model
import numpy as np
import patches
import pytest
import tiny_models
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from circuitcheck.core.activations import join
from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.core.units import Group
from circuitcheck.runtimes.pytorch.forward import final_hidden
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.ports.ports import Port

seeds = st.integers(0, 2**16)
# A pass takes as long as it takes on the machine at hand, and a shrunken seed of random weights says no more.
untimed = settings(deadline=None, max_examples=10, phases=(Phase.explicit, Phase.generate))

MODELS = ("micro", "gpt_neox", "llama-wide-heads")


def random_model(name: str, seed: int) -> HookedModel:
    if name != "micro":
        return tiny_models.tiny_model(name, seed)
    module = micro_model.MicroModel(micro_model.FIRST_LAYER, micro_model.SECOND_LAYER)
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data.normal_(generator=generator)
    return micro_model.hook_micro(module, 2)


@st.composite
def tasks(draw, vocabulary):
    """A few pairs of up to three lengths, counterfactuals and all."""
    tokens = st.integers(0, vocabulary - 1)

    def pair(length):
        prompt = st.lists(tokens, min_size=length, max_size=length).map(tuple)
        answers = st.lists(tokens, min_size=2, max_size=2, unique=True)
        return st.tuples(prompt, prompt, answers)

    drawn = draw(st.lists(st.integers(2, 4).flatmap(pair), min_size=1, max_size=4))
    pairs = [PromptPair(clean, other, *answers, "any") for clean, other, answers in drawn]
    return Task("random", tuple(pairs))


def vocabulary(name: str) -> int:
    return 4 if name == "micro" else tiny_models.VOCABULARY


@pytest.mark.parametrize("name", MODELS)
@untimed
@given(data=st.data(), seed=seeds)
def test_ablating_nothing_changes_nothing(name, data, seed):
    model, task = random_model(name, seed), data.draw(tasks(vocabulary(name)))
    expected = model.metric(task.prompts())
    nothing = patches.repaired_metric(model, task, model.activations(task.prompts(), "head"), [set()])
    assert nothing[0].tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", MODELS)
@untimed
@given(data=st.data(), seed=seeds)
def test_writing_back_what_was_read_changes_no_bit(name, data, seed):
    model, task = random_model(name, seed), data.draw(tasks(vocabulary(name)))
    for batch in task.prompts().batches():
        ids = torch.from_numpy(batch.clean)
        z = patches.read(model, ids)
        with torch.no_grad():
            expected = final_hidden(model, ids)
            with patches.edited(model, {place: lambda _, value=value: value for place, value in enumerate(z)}):
                written = final_hidden(model, ids)
        assert torch.equal(expected, written)


def damage_attention(model: HookedModel, seed: int) -> None:
    """Moves every weight that decides `z`, and none that `z` goes through: queries, keys and values, or the micro
    model's gains and offsets."""
    generator = torch.Generator().manual_seed(seed)
    inside = ("gain", "offset", "query_key_value", "q_proj", "k_proj", "v_proj")
    damaged = [part for name, part in model.module.named_parameters() if any(word in name for word in inside)]
    assert damaged
    for parameter in damaged:
        parameter.data += 0.5 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("name", MODELS)
@untimed
@given(data=st.data(), seed=seeds)
def test_full_repair_of_an_attention_only_candidate_restores_the_reference(name, data, seed):
    reference, candidate = random_model(name, seed), random_model(name, seed)
    damage_attention(candidate, seed + 1)
    task = data.draw(tasks(vocabulary(name)))
    z = reference.activations(task.prompts(), "head")
    expected, broken = reference.metric(task.prompts()), candidate.metric(task.prompts())
    repaired = patches.repaired_metric(candidate, task, z, [candidate.layout("head").units])[0]
    # Sums of at most 64 terms in float32, three or four in a row; they are the same sums, if not in the same order.
    tolerance = 1e-5 * (1 + np.abs(expected) + np.abs(broken))
    assert (np.abs(repaired - expected) <= tolerance).all()


def test_the_candidates_above_are_damaged():
    """Else the property holds of a repair that does nothing."""
    task = Task("fixed", (PromptPair((1, 2, 3), (1, 0, 3), 2, 3, "any"),))
    for name in MODELS:
        reference, candidate = random_model(name, 0), random_model(name, 0)
        damage_attention(candidate, 1)
        assert abs(reference.metric(task.prompts()) - candidate.metric(task.prompts())) > 0.01


@given(
    batch=st.integers(1, 3), length=st.integers(1, 4), n_heads=st.integers(1, 5), d_head=st.integers(1, 4), seed=seeds
)
def test_z_survives_splitting_and_joining_heads(batch, length, n_heads, d_head, seed):
    port = Port(Group("0", 0, n_heads, d_head), "projection", "input")
    flat = torch.randn(batch, length, n_heads * d_head, generator=torch.Generator().manual_seed(seed))
    z = port.split(flat)
    assert z.shape == (batch, length, n_heads, d_head)
    assert torch.equal(z.flatten(-2), flat)
    for head in range(n_heads):
        assert torch.equal(z[:, :, head], flat[..., head * d_head : (head + 1) * d_head])


@untimed
@given(data=st.data(), seed=seeds)
def test_z_survives_the_activations(data, seed):
    """What the activations give back for a batch is what that batch's pass recorded, in any order of prompts."""
    model, task = random_model("micro", seed), data.draw(tasks(vocabulary("micro")))
    order = data.draw(st.permutations(range(len(task.pairs))))
    values = model.activations(task.prompts(order), "head")
    assert values.index == tuple(range(len(task.pairs)))
    for batch in task.prompts(order).batches():
        rows = values.rows(batch.index)
        last = values.answer_position().rows(batch.index)
        for place, expected in enumerate(patches.read(model, torch.from_numpy(batch.clean))):
            assert np.array_equal(rows[place], expected)
            assert np.array_equal(last[place], expected[:, -1:])


def test_activations_of_no_prompts_keep_their_shapes():
    model = micro_model.two_layers()
    nothing = micro_model.micro_task().prompts([])
    values = model.activations(nothing, "head")
    assert (values.index, values.lengths) == ((), ())
    assert [group.shape for group in values.groups] == [(0, 2, 2)] * 2
    assert join({}, model.layout("head")).answer_position().groups[0].shape == (0, 2, 2)
    metric, gradient = model.gradient(nothing, "head")
    assert metric.shape == (0,)
    assert [group.shape for group in gradient.groups] == [(0, 2, 2)] * 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_activations_are_float32_whatever_the_model_computes_in(dtype):
    """So that drift is not itself rounded to half precision; the values are the model's own."""
    model = micro_model.two_layers()
    prompts = micro_model.micro_task().prompts()
    exact = model.activations(prompts, "head")
    model.module.to(dtype)
    values = model.activations(prompts, "head")
    assert {group.dtype for group in values.groups} == {np.dtype(np.float32)}
    # the first layer's z is of small whole numbers, exact in every type
    assert np.array_equal(values.groups[0], exact.groups[0])


@pytest.mark.parametrize("engine", ["replay", "full"])
def test_no_sets_of_units_give_no_rows(engine):
    model = micro_model.one_layer()
    assert patches.ablated_metric(model, micro_model.micro_task(), [0], "zero", units=[], engine=engine).shape == (0, 1)
