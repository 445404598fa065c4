"""Names of the parts of a transformer layer, one line an architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LayerNames:
    """Paths inside one layer.

    Attributes:
        attention: the attention module.
        projection: its output projection, from the attention module on; its input is `z`.
        mlp: the module that ends the MLP.
        attention_output: the module whose output the attention adds to the residual stream; the projection by default.
        mlp_output: the same of the MLP; `mlp` itself by default.
    """

    attention: str
    projection: str
    mlp: str
    attention_output: str = ""
    mlp_output: str = ""


NORMED = ("post_attention_layernorm", "post_feedforward_layernorm")
"""Norms that stand between attention or MLP and the residual stream."""

ARCHITECTURES: dict[str, LayerNames] = {
    "bert": LayerNames("attention", "output.dense", "output", mlp_output="output.dense"),
    "bloom": LayerNames("self_attention", "dense", "mlp", mlp_output="mlp.dense_4h_to_h"),
    "cohere": LayerNames("self_attn", "o_proj", "mlp"),
    "cohere2": LayerNames("self_attn", "o_proj", "mlp"),
    "distilbert": LayerNames("attention", "out_lin", "ffn"),
    "falcon": LayerNames("self_attention", "dense", "mlp"),
    "gemma": LayerNames("self_attn", "o_proj", "mlp"),
    "gemma2": LayerNames("self_attn", "o_proj", "mlp", *NORMED),
    "gemma3_text": LayerNames("self_attn", "o_proj", "mlp", *NORMED),
    "gpt2": LayerNames("attn", "c_proj", "mlp"),
    "gpt_neo": LayerNames("attn.attention", "out_proj", "mlp"),
    "gpt_neox": LayerNames("attention", "dense", "mlp"),
    "gpt_oss": LayerNames("self_attn", "o_proj", "mlp"),
    "gptj": LayerNames("attn", "out_proj", "mlp"),
    "granite": LayerNames("self_attn", "o_proj", "mlp"),
    "llama": LayerNames("self_attn", "o_proj", "mlp"),
    "mistral": LayerNames("self_attn", "o_proj", "mlp"),
    "mixtral": LayerNames("self_attn", "o_proj", "mlp"),
    "mpt": LayerNames("attn", "out_proj", "ffn", mlp_output="ffn.down_proj"),
    "olmo2": LayerNames("self_attn", "o_proj", "mlp", *NORMED),
    "opt": LayerNames("self_attn", "out_proj", "fc2"),
    "phi": LayerNames("self_attn", "dense", "mlp"),
    "phi3": LayerNames("self_attn", "o_proj", "mlp"),
    "qwen2": LayerNames("self_attn", "o_proj", "mlp"),
    "qwen2_moe": LayerNames("self_attn", "o_proj", "mlp"),
    "qwen3": LayerNames("self_attn", "o_proj", "mlp"),
    "qwen3_moe": LayerNames("self_attn", "o_proj", "mlp"),
    "roberta": LayerNames("attention", "output.dense", "output", mlp_output="output.dense"),
    "stablelm": LayerNames("self_attn", "o_proj", "mlp"),
    "starcoder2": LayerNames("self_attn", "o_proj", "mlp"),
}
"""`model_type` of the text model's config to names. Others are resolved by structure; all are proven before anything is
measured."""

ATTENTION_NAMES = ("self_attn", "attn", "attention", "self_attention")
PROJECTION_NAMES = ("o_proj", "out_proj", "c_proj", "dense", "out_lin", "wo", "proj")
MLP_NAMES = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "fc2")
"""What an unknown architecture is searched for, most common first."""


def text_config(config: Any) -> Any:
    """The config of the language model inside a model of several parts; otherwise `config` itself."""
    nested = getattr(config, "get_text_config", None)
    return nested() if callable(nested) else config
