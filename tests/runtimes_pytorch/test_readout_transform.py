"""What a model does to its logits after the unembedding, as its config names it."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from circuitcheck.runtimes.pytorch.logit_transform import logit_transform

CAPPED = {"final_logit_softcapping": 2.0}

BY_HAND: dict[str, tuple[dict[str, Any], list[float]]] = {
    # name: (config, what becomes of the logits -1, 0 and 4)
    "none": ({"model_type": "llama"}, [-1.0, 0.0, 4.0]),
    "capped": ({"model_type": "gemma2"} | CAPPED, [-2 * math.tanh(0.5), 0.0, 2 * math.tanh(2.0)]),
    "cap switched off": ({"model_type": "gemma3_text", "final_logit_softcapping": None}, [-1.0, 0.0, 4.0]),
    "multiplied": ({"model_type": "cohere", "logit_scale": 0.25}, [-0.25, 0.0, 1.0]),
    "multiplied, second version": ({"model_type": "cohere2", "logit_scale": 0.25}, [-0.25, 0.0, 1.0]),
    "divided": ({"model_type": "granite", "logits_scaling": 4}, [-0.25, 0.0, 1.0]),
    "a scale that its model ignores": ({"model_type": "mpt", "logit_scale": 0.25}, [-1.0, 0.0, 4.0]),
    "a scale that is a word": ({"model_type": "mpt", "logit_scale": "inv_sqrt_d_model"}, [-1.0, 0.0, 4.0]),
    "no model type": ({}, [-1.0, 0.0, 4.0]),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_logits_by_hand(name: str) -> None:
    config, expected = BY_HAND[name]
    found = logit_transform(SimpleNamespace(**config))(torch.tensor([-1.0, 0.0, 4.0]))
    assert found.tolist() == pytest.approx(expected, rel=1e-6)  # float32


def test_a_model_without_a_config_has_its_logits_as_they_are() -> None:
    logits = torch.tensor([1.0, 2.0])
    assert logit_transform(None)(logits) is logits


def test_the_text_model_inside_a_larger_one_counts() -> None:
    text = SimpleNamespace(model_type="gemma3_text", **CAPPED)
    outer = SimpleNamespace(model_type="gemma3", get_text_config=lambda: text)
    assert logit_transform(outer)(torch.tensor([2.0])).item() == pytest.approx(2 * math.tanh(1.0), rel=1e-6)


@given(
    st.sampled_from(["capped", "multiplied", "divided"]),
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=2),
)
def test_the_order_of_logits_stays(name: str, logits: list[float]) -> None:
    """Otherwise the transformed metric could prefer another token than the model does; a cap may make them equal."""
    low, high = sorted(logits)
    transformed = logit_transform(SimpleNamespace(**BY_HAND[name][0]))(torch.tensor([low, high]))
    assert transformed.dtype == torch.float32
    assert transformed[0] <= transformed[1]


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3_text", "cohere", "cohere2", "granite"])
def test_the_models_own_logits_are_the_transform_of_the_unembedding(name: str) -> None:
    module = tiny_models.tiny_module(name)
    unembedded: list[torch.Tensor] = []
    handle = module.get_output_embeddings().register_forward_hook(lambda *given: unembedded.append(given[2].clone()))
    with torch.no_grad():
        logits = module(tiny_models.token_ids(2, 7), use_cache=False).logits
    handle.remove()
    transformed = logit_transform(module.config)(unembedded[0])
    # The same operations in the same order, or two steps of float32 where a scale is applied the other way round.
    torch.testing.assert_close(logits, transformed, rtol=2 * torch.finfo(torch.float32).eps, atol=0)
    assert torch.equal(logits, unembedded[0]) == (name == "llama")


def test_configs_of_the_library_name_their_transforms_as_they_did() -> None:
    """A renamed setting would silently make the transform the identity; the proof would then refuse the model."""
    assert transformers.Gemma2Config().final_logit_softcapping == 30.0
    assert transformers.CohereConfig().logit_scale == 0.0625
    assert transformers.GraniteConfig(logits_scaling=8.0).logits_scaling == 8.0
