"""Tiny random Hugging Face models, one for each way in which architectures differ."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from circuitcheck.models.hooked import HookedModel
from circuitcheck.models.load import hook_module

VOCABULARY = 50

_COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
_GPT2: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_GROUPED = _COMMON | {"num_key_value_heads": 2}

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt_neox": ("GPTNeoX", _COMMON),
    "gpt2": ("GPT2", _GPT2),
    "llama": ("Llama", _GROUPED),
    "llama-wide-heads": ("Llama", _GROUPED | {"head_dim": 16}),
    "mistral": ("Mistral", _GROUPED | {"head_dim": 8}),
    "mixtral": ("Mixtral", _GROUPED | {"num_local_experts": 2}),
    "qwen3": ("Qwen3", _GROUPED | {"head_dim": 16}),
    "gemma": ("Gemma", _COMMON | {"num_key_value_heads": 1, "head_dim": 16}),
    "gemma2": ("Gemma2", _GROUPED | {"head_dim": 16, "final_logit_softcapping": 0.1}),
    "granite": ("Granite", _GROUPED | {"logits_scaling": 4.0}),
    "starcoder2": ("Starcoder2", _GROUPED),
    "phi": ("Phi", _COMMON),
    "opt": (
        "OPT",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 64,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 32,
        },
    ),
    "bloom": ("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon": ("Falcon", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}),
    "mpt": ("Mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64}),
    "gptj": ("GPTJ", _GPT2 | {"rotary_dim": 4}),
    "gpt_neo": (
        "GPTNeo",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 64,
        },
    ),
    "ctrl": ("CTRL", _GPT2 | {"dff": 64}),
    "mamba": ("Mamba", {"hidden_size": 32, "num_hidden_layers": 2}),
}
"""Name to (prefix of the Hugging Face classes, settings)."""


def tiny_module(name: str, seed: int = 0, **settings: Any) -> PreTrainedModel:
    """A random model in evaluation mode, with weights large enough that attention matters."""
    prefix, known = SETTINGS[name]
    end = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 1}
    config = getattr(transformers, f"{prefix}Config")(vocab_size=VOCABULARY, **end, **(known | settings))
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    module = getattr(transformers, f"{prefix}{'LMHeadModel' if prefix in ('GPT2', 'CTRL') else 'ForCausalLM'}")(config)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
            elif "norm" not in name and "ln_" not in name:
                parameter.normal_(0, 0.1)
    return module.eval()


def tiny_model(name: str = "gpt_neox", seed: int = 0, **settings: Any) -> HookedModel:
    """The same, hooked."""
    return hook_module(tiny_module(name, seed, **settings), name=name)


def token_ids(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    """Random token ids `[batch, length]`."""
    return torch.randint(2, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))
