"""Names of the parts of a transformer layer, one line an architecture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerNames:
    """Paths inside one layer: the attention module, its output projection, and the module that ends the MLP."""

    attention: str
    projection: str
    mlp: str


ARCHITECTURES: dict[str, LayerNames] = {
    "gpt_neox": LayerNames("attention", "dense", "mlp"),
    "gpt2": LayerNames("attn", "c_proj", "mlp"),
    "llama": LayerNames("self_attn", "o_proj", "mlp"),
}
"""`config.model_type` to names. Others are resolved by structure; all are proven before anything is measured."""

ATTENTION_NAMES = ("self_attn", "attn", "attention", "self_attention")
PROJECTION_NAMES = ("o_proj", "out_proj", "c_proj", "dense", "out_lin", "wo", "proj")
MLP_NAMES = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "fc2")
"""What an unknown architecture is searched for, most common first."""
