"""Features are read and written at their dictionary's hook point, and what it does not explain stays as it was."""

from __future__ import annotations

from typing import Any

import micro_model
import numpy as np
import patches
import pytest
import tiny_circuits
import tiny_models
import torch

from circuitcheck.core.activations import Activations
from circuitcheck.core.errors import DictionaryError, SiteError
from circuitcheck.core.patch import Patch
from circuitcheck.dictionaries.dictionary import Dictionary, HookPoint, Place
from circuitcheck.runtimes.pytorch.hooked import HookedModel

KIND = "feature"
FLOAT = 2e-5
"""Relative to the metric: float32 sums of other batch sizes, through two layers."""


def dictionary(
    reads: HookPoint, writes: HookPoint | None = None, width: int = 32, out: int | None = None, **more: Any
) -> Dictionary:
    """Random latents, some on and some off, of the size of what a random model's places have."""
    rng = np.random.default_rng(0)
    latents, out = 12, out or width

    def drawn(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return Dictionary(
        name="made up",
        architecture="standard",
        reads=reads,
        writes=writes or reads,
        encoder=drawn(width, latents),
        bias=0.1 * drawn(latents),
        threshold=np.zeros(latents, np.float32),
        decoder=drawn(latents, out) / 3,
        decoder_bias=drawn(out),
        **more,
    )


def by_hand() -> HookedModel:
    """The two-layer micro model with two latents behind layer 0: what of the stream lies along each axis, and above 1.

    f0 = r0 - 1 and f1 = 2 r1 - 1 where that is above 0, and they write (1, 0) and (0, 1/2).
    """
    found = Dictionary(
        name="by hand",
        architecture="standard",
        reads=HookPoint(0, "resid_post"),
        writes=HookPoint(0, "resid_post"),
        encoder=np.array([[1, 0], [0, 2]], np.float32),
        bias=np.array([-1, -1], np.float32),
        threshold=np.zeros(2, np.float32),
        decoder=np.array([[1, 0], [0, 0.5]], np.float32),
        decoder_bias=np.zeros(2, np.float32),
    )
    return micro_model.two_layers().with_dictionaries([found])


def test_by_hand():
    model, task = by_hand(), micro_model.micro_task()
    prompts = task.prompts([0])
    # tokens 2, 0: embeddings (2, 1), (1, 0); behind layer 0 by head 0, head 1 and the bias
    stream = np.array([[2 + 1 + 0.25, 1 + 1 - 0.5], [1 + 4 + 1 + 0.25, 0 + 1 + 1.5 - 0.5]])
    (values,) = model.activations(prompts, KIND).groups
    expected = np.maximum(stream * [1, 2] - 1, 0)
    assert np.array_equal(values[..., 0], expected)
    # Without f0 the stream is 1 along the first axis at both positions, and along the second as it was.
    ablated = model.patched(prompts, Patch(KIND, (((0, 0),), ((0, 1),), ()), "zero"))
    for row, stream_left in ((0, stream - expected * [1, 0]), (1, stream - expected * [0, 0.5]), (2, stream)):
        previous, here = stream_left
        z0, z1 = previous, previous + here
        last = here + np.array([z0[0], -z0[1] + z1[0]])
        logits = np.array(micro_model.UNEMBEDDING) @ last + micro_model.UNEMBEDDING_BIAS
        assert ablated[row, 0] == pytest.approx(logits[0] - logits[1], abs=1e-6)


PLACES: dict[str, tuple[Place, Place | None]] = {
    "resid_post": ("resid_post", None),
    "resid_pre": ("resid_pre", None),
    "attn_out": ("attn_out", None),
    "mlp_in": ("mlp_in", None),
    "mlp_out": ("mlp_out", None),
    "z": ("z", None),
    "transcoder": ("mlp_in", "mlp_out"),
}


def made(name: str, place: str, layer: int, **more: Any) -> HookedModel:
    reads, writes = PLACES[place]
    point = HookPoint(layer, reads)
    found = dictionary(point, HookPoint(layer, writes) if writes else None, **more)
    return tiny_models.tiny_model(name).with_dictionaries([found])


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["gpt_neox", "llama"])
def test_everywhere_it_is_proven_and_replayed(name, place, layer):
    model = made(name, place, layer)
    task = tiny_circuits.solvable_task(model, prompts=3)
    prompts = task.prompts()
    with model.unchanged():
        model.prove(prompts, KIND)
        sets = (((0, 0),), ((0, 3), (0, 7)), tuple(model.layout(KIND).units))
        for values in ("zero", "resample"):
            patch = Patch(KIND, sets, values)
            replayed, full = (model.patched(prompts, patch, engine=engine) for engine in ("replay", "full"))
            assert np.allclose(replayed, full, atol=FLOAT * np.abs(full).max())
        own = model.activations(prompts, KIND)
        assert own.groups[0].min() >= 0
        assert 0.05 < (own.groups[0] > 0).mean() < 0.95
        # Written back, nothing has changed at all.
        same = model.patched(prompts, Patch(KIND, sets, own), engine="full")
        assert np.allclose(same, model.metric(prompts), atol=FLOAT * np.abs(full).max())


def test_what_is_not_explained_stays():
    model = made("llama", "resid_post", 1)
    ids = torch.tensor([[3, 7, 11]])
    (port,) = model.ports(KIND)
    passed = {}
    layer = model.module.get_submodule(port.module)
    plain = layer.register_forward_hook(lambda _, __, output: passed.setdefault("before", first(output).clone()))
    off = {0: lambda units: torch.zeros_like(units)}
    with torch.no_grad(), patches.edited(model, off, KIND):
        after = layer.register_forward_hook(lambda _, __, output: passed.setdefault("after", first(output).clone()))
        model.module(ids)
    plain.remove()
    after.remove()
    latents = port.split(passed["before"])[..., 0]
    expected = passed["before"] - latents @ port.latents.decoder
    assert torch.allclose(passed["after"], expected, atol=1e-5)


def first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def test_gradients_are_those_of_a_finite_difference():
    model = made("gpt_neox", "resid_post", 0)
    task = tiny_circuits.solvable_task(model, prompts=2)
    prompts = task.prompts([0])
    metric, gradient = model.gradient(prompts, KIND)
    own = model.activations(prompts, KIND)
    step = 1e-2
    for unit in range(3):
        moved = own.groups[0].copy()
        moved[-1, unit] += step
        changed = Activations(own.index, own.lengths, (moved,))
        found = model.patched(prompts, Patch(KIND, (((0, unit),),), changed))[0, 0]
        slope = gradient.groups[0][-1, unit, 0]
        assert (found - metric[0]) / step == pytest.approx(slope, rel=0.05, abs=5e-3)


def test_some_features_are_seen():
    model = made("llama", "resid_post", 0)
    layout = model.layout(KIND).only({(0, 2), (0, 7)})
    some = model.narrowed(layout)
    assert [layout.label(unit) for unit in layout.units] == ["feature 0.2", "feature 0.7"]
    task = tiny_circuits.solvable_task(model, prompts=2)
    everything, chosen = (one.activations(task.prompts(), KIND).groups[0] for one in (model, some))
    assert np.allclose(everything[:, [2, 7]], chosen, atol=1e-6)
    tokens = [1, 5, 9]
    maps = [one.reading(KIND, tokens).maps[0] for one in (model, some)]
    assert np.allclose(maps[0][[2, 7]], maps[1], atol=1e-6)
    alike = [one.patched(task.prompts(), Patch(KIND, (((0, unit),),), "zero")) for one, unit in ((model, 7), (some, 1))]
    assert np.allclose(*alike, atol=1e-5)


def test_what_they_write_is_read_through_the_unembedding():
    for place in ("resid_post", "z", "transcoder"):
        model = made("llama", place, 1)
        (port,) = model.ports(KIND)
        (read,) = model.reading(KIND, [4, 8]).maps
        rows = port.latents.decoder
        if place == "z":
            rows = rows @ model.module.get_submodule(port.module).weight.T
        head = model.module.lm_head.weight[[4, 8]] * model.module.model.norm.weight
        assert np.allclose(read[..., 0], (rows @ head.T).detach().numpy(), atol=1e-5)


MISFITS: dict[str, tuple[Dictionary, str]] = {
    "width": (dictionary(HookPoint(0, "resid_post"), width=31), "made up reads 31 numbers at resid_post of layer 0"),
    "written width": (
        dictionary(HookPoint(0, "mlp_in"), HookPoint(0, "mlp_out"), out=30),
        "writes 30 numbers at mlp_out of layer 0, and the model has 32 there",
    ),
    "layer": (dictionary(HookPoint(9, "resid_post")), "stands at resid_post of layer 9, and the model has 2 layers"),
    "order": (
        dictionary(HookPoint(1, "mlp_out"), HookPoint(0, "mlp_in")),
        "reads at mlp_out of layer 1, which does not run before mlp_in of layer 0",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_dictionary_of_another_model(case):
    found, said = MISFITS[case]
    with pytest.raises(DictionaryError) as caught:
        tiny_models.tiny_model("llama").with_dictionaries([found])
    assert said in str(caught.value)
    assert "trained on this model" in str(caught.value)


def test_a_place_that_a_model_does_not_have():
    """OPT's MLP is no module of its own, so that nothing says what it reads."""
    model = made("opt", "mlp_in", 0)
    task = tiny_circuits.solvable_task(model, prompts=2)
    with pytest.raises(SiteError, match=r"first argument is not \[batch, seq, 32\]"):
        model.prove(task.prompts(), KIND)
    with pytest.raises(DictionaryError, match=r"MLP of layers\.0 was not found"):
        micro_model.one_layer().with_dictionaries([dictionary(HookPoint(0, "mlp_out"), width=2)])


def test_no_dictionary_no_features():
    with pytest.raises(SiteError, match="feature:PATH"):
        tiny_models.tiny_model("llama").layout(KIND)
