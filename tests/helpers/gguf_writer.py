"""Writes GGUF files as llama.cpp's converter does: names, metadata, and the order of rows that it stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from torch import nn

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "gpt2": gguf.MODEL_ARCH.GPT2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma": gguf.MODEL_ARCH.GEMMA,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "mixtral": gguf.MODEL_ARCH.LLAMA,
    "starcoder2": gguf.MODEL_ARCH.STARCODER2,
    "stablelm": gguf.MODEL_ARCH.STABLELM,
    "olmo2": gguf.MODEL_ARCH.OLMO2,
    "gpt_neox": gguf.MODEL_ARCH.GPTNEOX,
}
ROTATED = ("llama", "mistral", "mixtral")
"""Their rotary pairs lie side by side in llama.cpp, and half a head apart in transformers."""

ONE_MORE = ("gemma", "gemma2")
"""Their norms multiply by one more than their weight; in llama.cpp, by the weight."""

TRANSPOSED = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
"""GPT-2's `Conv1D` is stored as an ordinary linear map."""


def write_gguf(
    module: nn.Module,
    file: Path,
    kind: str,
    *,
    tokens: list[str] | None = None,
    leave_out: tuple[str, ...] = (),
    extra: dict[str, NDArray[Any]] | None = None,
    changed: dict[str, Any] | None = None,
) -> Path:
    """Writes a model.

    Args:
        module: a transformers model of one of `ARCHITECTURES`.
        file: where to.
        kind: type of the matrices, such as `Q8_0`; rows that do not divide into its blocks become F16.
        tokens: words by token id, where the file is to have a tokenizer.
        leave_out: metadata keys, or names of tensors, that are not written.
        extra: further tensors.
        changed: metadata that says something else than the model, by the part of the key behind the architecture.
    """
    config: Any = module.config
    architecture = ARCHITECTURES[config.model_type]
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_name("tiny")  # llama.cpp looks for words of its own in files of some names
    for key, value in (metadata(config) | (changed or {})).items():
        if key not in leave_out:
            adders = {float: writer.add_float32, bool: writer.add_bool, int: writer.add_uint32}
            adders[type(value)](f"{gguf.MODEL_ARCH_NAMES[architecture]}.{key}", value)
    if tokens is not None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([-float(number) for number in range(len(tokens))])
        writer.add_token_types([1] * len(tokens))
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    for name, tensor in module.state_dict().items():
        for stored, weight in [] if name in tied else parts(names, name, tensor.float().numpy()):
            if stored not in leave_out:
                add_tensor(writer, stored, rows(config, stored, weight), kind)
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return file


def parts(names: Any, name: str, weight: NDArray[Any]) -> list[tuple[str, NDArray[Any]]]:
    """What a weight is called in a file, and the parts that stacks of experts are stored in."""
    stem, end = name.rsplit(".", 1)
    if not stem.endswith(".experts"):
        return [(f"{names.get_name(stem)}.{end}", weight)]
    block = f"blk.{stem.split('.')[-3]}"
    if end == "down_proj":
        return [(f"{block}.ffn_down_exps.weight", weight)]
    gate, up = np.split(weight, 2, axis=1)
    return [
        (f"{block}.ffn_{part}_exps.weight", np.ascontiguousarray(half)) for part, half in (("gate", gate), ("up", up))
    ]


def metadata(config: Any) -> dict[str, int | float | bool]:
    """What llama.cpp needs to know of a model, by the part of the key behind the architecture."""
    common = {
        "context_length": config.max_position_embeddings,
        "block_count": config.num_hidden_layers,
        "embedding_length": config.hidden_size,
        "attention.head_count": config.num_attention_heads,
        "vocab_size": config.vocab_size,
    }
    if config.model_type == "gpt2":
        return common | {
            "feed_forward_length": config.n_inner or 4 * config.hidden_size,
            "attention.layer_norm_epsilon": float(config.layer_norm_epsilon),
        }
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    epsilon = next(
        getattr(config, key) for key in ("rms_norm_eps", "norm_epsilon", "layer_norm_eps") if hasattr(config, key)
    )
    norm = "layer_norm_rms_epsilon" if hasattr(config, "rms_norm_eps") else "layer_norm_epsilon"
    turned = config.rope_parameters.get("partial_rotary_factor") or 1.0
    found = common | {
        "feed_forward_length": config.intermediate_size,
        "attention.head_count_kv": getattr(config, "num_key_value_heads", config.num_attention_heads),
        f"attention.{norm}": float(epsilon),
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "rope.dimension_count": int(d_head * turned),
    }
    if d_head * config.num_attention_heads != config.hidden_size:
        found |= {"attention.key_length": d_head, "attention.value_length": d_head}
    if config.model_type == "gemma2":
        found |= {
            "attention.sliding_window": config.sliding_window,
            "attn_logit_softcapping": float(config.attn_logit_softcapping),
            "final_logit_softcapping": float(config.final_logit_softcapping),
        }
    if getattr(config, "num_local_experts", 0):
        found |= {"expert_count": config.num_local_experts, "expert_used_count": config.num_experts_per_tok}
    if hasattr(config, "use_parallel_residual"):
        found["use_parallel_residual"] = bool(config.use_parallel_residual)
    return found


def rows(config: Any, name: str, weight: NDArray[Any]) -> NDArray[Any]:
    """A weight in the order in which llama.cpp stores its rows."""
    if config.model_type in ONE_MORE and "norm" in name:
        return weight + 1
    if config.model_type == "gpt_neox" and ".attn_qkv." in name:  # head by head there, and one after the other here
        parts = weight.reshape(config.num_attention_heads, 3, -1, *weight.shape[1:])
        return np.ascontiguousarray(parts.swapaxes(0, 1).reshape(weight.shape))
    if config.model_type == "gpt2" and name.endswith(TRANSPOSED):
        return np.ascontiguousarray(weight.T)
    if config.model_type in ROTATED and name.endswith(("attn_q.weight", "attn_k.weight")):
        heads = config.num_attention_heads if ".attn_q." in name else config.num_key_value_heads
        halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))
    return weight


def add_tensor(writer: gguf.GGUFWriter, name: str, weight: NDArray[Any], kind: str) -> None:
    """Norms and biases stay F32, embeddings become F16 at most, as llama.cpp has it."""
    wanted = gguf.GGMLQuantizationType[kind]
    if weight.ndim == 1:
        wanted = gguf.GGMLQuantizationType.F32
    elif not name.startswith("blk.") or weight.shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0]:
        wanted = wanted if kind in ("F32", "BF16") else gguf.GGMLQuantizationType.F16
    writer.add_tensor(name, gguf.quants.quantize(weight.astype(np.float32), wanted), raw_dtype=wanted)


def made_up_words(count: int = 50) -> list[str]:
    """Words of a tokenizer by token id, for models that have none."""
    return ["<unk>", "<eos>", *(f"w{number}" for number in range(2, count))]
