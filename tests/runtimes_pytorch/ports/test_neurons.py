"""Neurons of MLPs as units: found, proven, read, patched and replayed; all of them, or some."""

from __future__ import annotations

import micro_model
import numpy as np
import pytest
import tiny_models
import torch
from patches import alone, read
from tiny_sites import EXPECTED

from circuitcheck.core.errors import SiteError
from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.core.runtime import Work
from circuitcheck.core.specification import ABLATIONS, Ablation
from circuitcheck.core.units import Group, Layout
from circuitcheck.runtimes.pytorch.hooked import HookedModel

ROUNDING = 1e-5
"""Sums over other batch shapes are rounded in another order; relative to the largest metric, as for replays."""

MODELS = ("gpt_neox", "gpt2", "llama", "gemma2", "opt", "falcon-alibi", "bloom", "phi3", "mixtral-routed", "gpt_oss")
"""Each runs its MLP in another way: beside the attention, behind it, gated, between norms, by all tokens in a row, by
experts in a stack."""


def random_task() -> Task:
    """Four pairs of two lengths that have nothing to do with one another."""
    pairs = []
    for number in range(4):
        clean, other = tiny_models.token_ids(2, 6 + number % 2, seed=number).tolist()
        pairs.append(PromptPair(tuple(clean), tuple(other), 3, 5, "one"))
    return Task("random", tuple(pairs))


def some_of(model: HookedModel) -> Layout:
    """Three neurons of the first layer, and two of the last."""
    last = len(model.layout("neuron").groups) - 1
    return model.layout("neuron").only([(0, 1), (0, 7), (0, 30), (last, 0), (last, 63)])


def test_they_are_what_the_down_projection_reads() -> None:
    layout = tiny_models.tiny_model("llama").layout("neuron")
    assert layout == Layout("neuron", (Group("neuron 0", 0, 64, 1), Group("neuron 1", 1, 64, 1)))
    assert layout.label((1, 7)) == "neuron 1.7"
    assert not layout.is_many
    assert tiny_models.tiny_model("llama", intermediate_size=512).layout("neuron").is_many


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_architecture_is_proven(name: str) -> None:
    model = tiny_models.tiny_model(name)
    with model.unchanged():
        model.prove(random_task().prompts(), "neuron")


def test_a_model_without_an_mlp_has_none() -> None:
    with pytest.raises(SiteError, match=r"layers\.0 has no MLP that is known"):
        micro_model.one_layer().layout("neuron")


def test_an_mlp_of_an_unknown_form_is_refused() -> None:
    module = tiny_models.tiny_module("llama")
    module.model.layers[1].mlp = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 32))
    with pytest.raises(SiteError, match=r"layers\.1\.mlp \(Sequential\): exactly one linear map .* 2 were found"):
        HookedModel(module, tiny_models.tiny_model("llama").structure).layout("neuron")


def test_some_of_them_are_numbered_as_among_all() -> None:
    model = tiny_models.tiny_model("llama")
    layout = some_of(model)
    assert [layout.label(unit) for unit in layout.units] == [
        *("neuron 0.1", "neuron 0.7", "neuron 0.30"),
        *("neuron 1.0", "neuron 1.63"),
    ]
    assert layout.whole == model.layout("neuron")
    assert layout.only([(0, 2)]).groups == (Group("neuron 0", 0, 1, 1, True, 64, (30,)),)
    assert model.narrowed(layout).layout("neuron") == layout
    assert model.narrowed(layout).narrowed(layout.whole).layout("neuron") == layout.whole


def test_some_of_another_shape_are_refused() -> None:
    layout = some_of(tiny_models.tiny_model("llama"))
    with pytest.raises(SiteError, match="no neurons like those of neuron 0, neuron 1: it has another shape"):
        tiny_models.tiny_model("llama", intermediate_size=48).narrowed(layout)


@pytest.mark.parametrize("name", MODELS)
def test_some_are_read_and_differentiated_as_among_all(name: str) -> None:
    model, prompts = tiny_models.tiny_model(name), random_task().prompts()
    layout = some_of(model)
    narrow = model.narrowed(layout)
    for whole, part in (
        (model.activations(prompts, "neuron"), narrow.activations(prompts, "neuron")),
        (model.gradient(prompts, "neuron")[1], narrow.gradient(prompts, "neuron")[1]),
    ):
        wanted = [whole.groups[place][:, list(layout.groups[at].numbers)] for at, place in enumerate((0, -1))]
        for found, expected in zip(part.groups, wanted, strict=True):
            np.testing.assert_allclose(found, expected, rtol=ROUNDING, atol=ROUNDING * np.abs(expected).max())
    tokens = range(16)
    maps = model.reading("neuron", tokens).maps
    for at, place in enumerate((0, -1)):
        expected = maps[place][list(layout.groups[at].numbers)]
        found = narrow.reading("neuron", tokens).maps[at]
        np.testing.assert_allclose(found, expected, rtol=ROUNDING, atol=ROUNDING * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "ablation"), [*((name, "resample") for name in MODELS), *(("llama", kind) for kind in ABLATIONS[1:])]
)
def test_some_are_replaced_as_among_all_and_by_replays_as_by_full_passes(name: str, ablation: Ablation) -> None:
    model, prompts, work = tiny_models.tiny_model(name), random_task().prompts(), Work()
    layout = some_of(model)
    narrow = model.narrowed(layout)
    sets = (*alone(layout.units), layout.units, layout.units[1:4], ())
    patch = Patch("neuron", sets, ablation)
    replayed = narrow.patched(prompts, patch, work)
    full = narrow.patched(prompts, patch, engine="full")
    largest = np.abs(full).max()
    assert np.abs(replayed - full).max() <= ROUNDING * largest
    places = {group.name: place for place, group in enumerate(model.layout("neuron").groups)}

    def among_all(unit: tuple[int, int]) -> tuple[int, int]:
        group = layout.groups[unit[0]]
        return places[group.name], group.numbers[unit[1]]

    whole = Patch("neuron", tuple(tuple(map(among_all, units)) for units in sets), ablation)
    assert np.abs(model.patched(prompts, whole) - replayed).max() <= ROUNDING * largest
    assert len(np.unique(full[:, 0])) > len(layout.units), "the patches are to matter"


def test_their_values_are_those_of_the_module_itself() -> None:
    model, ids = tiny_models.tiny_model("llama"), tiny_models.token_ids(3, 5)
    seen: list[torch.Tensor] = []
    down = model.module.get_submodule("model.layers.1.mlp.down_proj")
    handle = down.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].clone()))
    found = read(model, ids, "neuron")[1]
    handle.remove()
    assert torch.equal(found[..., 0], seen[0])
