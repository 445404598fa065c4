"""Tiny random Hugging Face models, one for each way in which architectures differ."""

from __future__ import annotations

from itertools import cycle, islice
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.load import hook_module

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
_WIDE = _GROUPED | {"head_dim": 16}
_LOCAL = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
_ROTARY = {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 64}

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt_neox": ("GPTNeoXForCausalLM", _COMMON),
    "gpt2": ("GPT2LMHeadModel", _GPT2),
    "gptj": ("GPTJForCausalLM", _GPT2 | {"rotary_dim": 4}),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["local", "global"], 1]],
            "window_size": 4,
            "max_position_embeddings": 64,
        },
    ),
    "llama": ("LlamaForCausalLM", _GROUPED),
    "llama-wide-heads": ("LlamaForCausalLM", _WIDE),
    "mistral": ("MistralForCausalLM", _GROUPED | {"head_dim": 8, "sliding_window": 4}),
    "mixtral": ("MixtralForCausalLM", _GROUPED | {"num_local_experts": 2}),
    "mixtral-routed": ("MixtralForCausalLM", _GROUPED | {"num_local_experts": 4}),
    "qwen2": ("Qwen2ForCausalLM", _GROUPED),
    "qwen2_moe": ("Qwen2MoeForCausalLM", _GROUPED | _EXPERTS | {"num_experts": 4}),
    "qwen3": ("Qwen3ForCausalLM", _WIDE),
    "qwen3_moe": ("Qwen3MoeForCausalLM", _WIDE | _EXPERTS | {"num_local_experts": 4}),
    "gemma": ("GemmaForCausalLM", _COMMON | {"num_key_value_heads": 1, "head_dim": 16}),
    "gemma2": ("Gemma2ForCausalLM", _WIDE | _LOCAL | {"final_logit_softcapping": 5.0}),
    "gemma3_text": ("Gemma3ForCausalLM", _WIDE | _LOCAL | {"final_logit_softcapping": 5.0}),
    "phi": ("PhiForCausalLM", _COMMON),
    "phi3": ("Phi3ForCausalLM", _GROUPED),
    "opt": (
        "OPTForCausalLM",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 64,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 32,
        },
    ),
    "falcon": ("FalconForCausalLM", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}),
    "falcon-grouped": (
        "FalconForCausalLM",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
        },
    ),
    "falcon-alibi": (
        "FalconForCausalLM",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True, "parallel_attn": False},
    ),
    "bloom": ("BloomForCausalLM", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "mpt": ("MptForCausalLM", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64}),
    "stablelm": ("StableLmForCausalLM", _GROUPED),
    "stablelm-parallel": ("StableLmForCausalLM", _GROUPED | {"use_parallel_residual": True, "qk_layernorm": True}),
    "starcoder2": ("Starcoder2ForCausalLM", _GROUPED | {"sliding_window": 4}),
    "olmo2": ("Olmo2ForCausalLM", _GROUPED),
    "cohere": ("CohereForCausalLM", _GROUPED | {"logit_scale": 0.25, "use_qk_norm": True}),
    "cohere2": ("Cohere2ForCausalLM", _GROUPED | _LOCAL | {"logit_scale": 0.25}),
    "gpt_oss": ("GptOssForCausalLM", _WIDE | _LOCAL | _ROTARY | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "granite": ("GraniteForCausalLM", _GROUPED | {"logits_scaling": 4.0, "residual_multiplier": 0.5}),
    "bert": ("BertForMaskedLM", _COMMON),
    "bert-classifier": ("BertForSequenceClassification", _COMMON | {"num_labels": 3}),
    "roberta": ("RobertaForMaskedLM", _COMMON),
    "distilbert": (
        "DistilBertForMaskedLM",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64},
    ),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", _GPT2),
    "granitemoe": ("GraniteMoeForCausalLM", _GROUPED | {"logits_scaling": 4.0, "num_local_experts": 4}),
    "olmo": ("OlmoForCausalLM", _COMMON),
    "ctrl": ("CTRLLMHeadModel", _GPT2 | {"dff": 64}),
    "mamba": ("MambaForCausalLM", {"hidden_size": 32, "num_hidden_layers": 2}),
}
"""Name to (Hugging Face class, settings). The name of an architecture's first model is its `model_type`."""


def tiny_module(name: str, seed: int = 0, **settings: Any) -> PreTrainedModel:
    """A random model in evaluation mode, with weights large enough that attention matters."""
    kind, known = SETTINGS[name]
    end = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 1}
    model_class = getattr(transformers, kind)
    known = known | settings
    if "layer_types" in known:
        known["layer_types"] = list(islice(cycle(known["layer_types"]), known["num_hidden_layers"]))
    config = model_class.config_class(vocab_size=VOCABULARY, **end, **known)
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    module = model_class(config)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
            elif "norm" not in name.lower() and "ln_" not in name:
                parameter.normal_(0, 0.1)
    return module.eval()


def tiny_model(name: str = "gpt_neox", seed: int = 0, **settings: Any) -> HookedModel:
    """The same, hooked."""
    return hook_module(tiny_module(name, seed, **settings), name=name)


def model_type(name: str) -> str:
    """The key of the table of architectures that the model of that name is found under."""
    config_class = getattr(transformers, SETTINGS[name][0]).config_class
    return str(config_class.model_type)


def token_ids(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    """Random token ids `[batch, length]`."""
    return torch.randint(2, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))
