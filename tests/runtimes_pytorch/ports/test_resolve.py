"""Where heads are found, and what is refused by name."""

from __future__ import annotations

from types import SimpleNamespace

import patches
import pytest
import tiny_models
import torch
import transformers
from tiny_sites import EXPECTED
from torch import nn

from circuitcheck.core.errors import SiteError
from circuitcheck.runtimes.pytorch.forward import last_logits
from circuitcheck.runtimes.pytorch.loading.load import hook_module
from circuitcheck.runtimes.pytorch.ports.architectures import ARCHITECTURES
from circuitcheck.runtimes.pytorch.ports.proofs import prove
from circuitcheck.runtimes.pytorch.ports.structure import resolve


@pytest.mark.parametrize("name", EXPECTED)
def test_heads_are_found_and_proven(name):
    model = tiny_models.tiny_model(name)
    path, attention, projection, mlp, d_head, norm = EXPECTED[name]
    site = model.structure.layers[0]
    assert (site.layer, site.path, site.attention) == (0, path, f"{path}.{attention}")
    assert (site.projection, site.mlp) == (f"{path}.{attention}.{projection}", f"{path}.{mlp}")
    assert (site.n_heads, site.d_head) == (4, d_head)
    assert model.structure.final_norm == norm
    module = model.module
    assert module.get_submodule(model.structure.embedding) is module.get_input_embeddings()
    assert module.get_submodule(model.structure.output_layer) is module.get_output_embeddings()
    assert patches.units_of(model) == [(layer, head) for layer in range(2) for head in range(4)]
    prove(model, tiny_models.token_ids(2, 7))


def test_the_table_and_the_search_by_structure_are_both_tried_above():
    types = {tiny_models.model_type(name) for name in EXPECTED}
    assert set(ARCHITECTURES) <= types, "every entry of the table is to be tried"
    assert types - set(ARCHITECTURES) == {"gpt_bigcode", "granitemoe", "olmo"}


def test_a_language_model_beside_a_vision_tower_is_the_one_that_is_measured():
    """Both have two layers of four heads, and the tower's come first."""
    text = tiny_models.SETTINGS["gemma3_text"][1] | {"final_logit_softcapping": None}
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 14,
    }
    known = text | {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    config = transformers.Gemma3Config(
        text_config=known,
        vision_config=vision,
        boi_token_index=47,
        eoi_token_index=48,
        image_token_index=49,
        mm_tokens_per_image=1,
    )
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = hook_module(transformers.Gemma3ForConditionalGeneration(config).eval())
    site = model.structure.layers[0]
    assert site.projection == "model.language_model.layers.0.self_attn.o_proj"
    assert (site.n_heads, site.d_head, model.structure.output_layer) == (4, 16, "lm_head")
    prove(model, tiny_models.token_ids(2, 7) % 40)


@pytest.mark.parametrize("name", ["llama", "llama-wide-heads"])
def test_grouped_query_heads_are_query_heads(name):
    """Two query heads read one value head, so z of both is a mixture of the same values: their common key/value head
    is not an index. Zeroing one value head silences exactly the two query heads that share it.
    """
    model = tiny_models.tiny_model(name)
    attention = model.module.get_submodule(model.structure.layers[0].attention)
    d_head = model.structure.layers[0].d_head
    attention.v_proj.weight.data[d_head:] = 0
    z = patches.read(model, tiny_models.token_ids(2, 7))
    assert z[0].shape == (2, 7, 4, d_head)
    assert [bool((z[0][:, :, head] == 0).all()) for head in range(4)] == [False, False, True, True]


def test_heads_are_slices_of_the_projections_input():
    """A wide head's slice is wider than hidden_size / n_heads: 16, not 8, in a stream of 32."""
    model = tiny_models.tiny_model("llama-wide-heads")
    projection = model.module.get_submodule(model.structure.layers[1].projection)
    assert projection.in_features == 64
    projection.weight.data[:, :48] = 0
    ids = tiny_models.token_ids(2, 7)

    def without(head):
        def edit(z):
            z = z.clone()
            z[:, :, head] = 0
            return z

        with torch.no_grad(), patches.edited(model, {1: edit}):
            return last_logits(model, ids)

    with torch.no_grad():
        expected = last_logits(model, ids)
    same = [torch.equal(without(head), expected) for head in range(4)]
    assert same == [True, True, True, False]


REFUSED = {
    "ctrl": r"transformer\.h\.0 \(EncoderLayer, model type 'ctrl'\): exactly one .* found none\. .*multi_head_att",
    "mamba": r"MambaForCausalLM: its config does not say num_attention_heads",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_without_a_resolvable_output_projection_is_refused_by_name(name):
    with pytest.raises(SiteError, match=REFUSED[name]):
        tiny_models.tiny_model(name)


def test_an_ambiguous_projection_is_refused():
    module = tiny_models.tiny_module("olmo")
    for layer in module.model.layers:
        layer.self_attn.dense = nn.Linear(32, 32)
    with pytest.raises(SiteError, match=r"found self_attn\.o_proj, self_attn\.dense"):
        resolve(module)


def test_a_known_architecture_with_other_names_is_refused():
    module = tiny_models.tiny_module("llama")
    layer = module.model.layers[1]
    layer.self_attn.out = layer.self_attn.o_proj
    del layer.self_attn.o_proj
    with pytest.raises(SiteError, match=r"model\.layers\.1: no module self_attn\.o_proj in LlamaDecoderLayer"):
        resolve(module)


@pytest.mark.parametrize(("projection", "width"), [(nn.Linear(30, 32), "30"), (nn.Identity(), "None")])
def test_a_width_that_does_not_divide_into_heads_is_refused(projection, width):
    module = tiny_models.tiny_module("llama")
    module.model.layers[0].self_attn.o_proj = projection
    with pytest.raises(SiteError, match=rf"model\.layers\.0\.self_attn\.o_proj: its input width {width} .*4 heads"):
        resolve(module)


def test_unequal_layers_are_refused():
    module = tiny_models.tiny_module("llama")
    module.model.layers[1] = nn.Identity()
    with pytest.raises(SiteError, match=r"LlamaForCausalLM: no list of 2 equal layers .*num_hidden_layers"):
        resolve(module)


def test_a_model_without_an_unembedding_has_no_logits_to_read():
    model = hook_module(tiny_models.tiny_module("gpt2").transformer, name="headless")
    assert model.structure.output_layer is None
    with pytest.raises(SiteError, match=r"(?s)headless: .*no output embedding.*language-modelling head, or give a met"):
        prove(model, tiny_models.token_ids(2, 7))


def test_an_encoder_decoder_is_refused():
    config = transformers.T5Config(
        vocab_size=50, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=4, decoder_start_token_id=0
    )
    with pytest.raises(SiteError, match="T5ForConditionalGeneration is an encoder-decoder"):
        resolve(transformers.T5ForConditionalGeneration(config))


def test_a_model_without_a_config_is_told_the_way_out():
    with pytest.raises(SiteError, match=r"Linear has no Hugging Face config: pass a Structure of your own"):
        hook_module(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("config", "unsaid"),
    [
        ({"n_layer": 2, "n_head": 4}, "model_type, num_hidden_layers, num_attention_heads, hidden_size"),
        (
            {"model_type": "own", "num_hidden_layers": 2, "num_attention_heads": [4, 2], "hidden_size": 32},
            "num_attention_heads",
        ),
    ],
)
def test_a_config_of_another_kind_is_told_the_way_out(config, unsaid):
    module = nn.Module()
    module.config = SimpleNamespace(**config)
    with pytest.raises(SiteError, match=rf"its config does not say {unsaid}: pass a Structure of your own"):
        hook_module(module)


def test_a_structure_of_ones_own_is_taken_as_it_is():
    module = tiny_models.tiny_module("llama")
    structure = resolve(module)
    assert hook_module(nn.Linear(2, 2), structure).structure is structure
