"""Graphs as builders write them: fused attention over a past of keys and values, which no exporter of PyTorch makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

MICROSOFT = "com.microsoft"


class _Nodes:
    """Nodes and constants of a graph that is being written."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, kind: str, inputs: list[str], output: str, *more: str, domain: str = "", **attributes: Any) -> str:
        node = helper.make_node(kind, inputs, [output, *more], name=f"/{output}", domain=domain, **attributes)
        self.nodes.append(node)
        return output


def llama_with_past(module: Any, file: Path) -> Path:
    """A Llama of transformers with GroupQueryAttention and a past, as onnxruntime-genai's builder writes it.

    Args:
        module: `LlamaForCausalLM`, in float32.
        file: where it goes.
    """
    config, made = module.config, _Nodes()
    weights = {name: value.detach().numpy() for name, value in module.state_dict().items()}
    eps, layers, kv_heads = config.rms_norm_eps, config.num_hidden_layers, config.num_key_value_heads
    width = weights["model.layers.0.self_attn.q_proj.weight"].shape[0] // config.num_attention_heads

    def product(source: str, path: str) -> str:
        weight = made.constant(f"{path}.weight", weights[f"{path}.weight"].T)
        return made.add("MatMul", [source, weight], f"{path}/MatMul")

    positions = torch.arange(config.max_position_embeddings)[None]
    cosine, sine = (part[0, :, : width // 2].numpy() for part in module.model.rotary_emb(torch.zeros(1), positions))
    caches = made.constant("cos_cache", cosine), made.constant("sin_cache", sine)
    one, axis = made.constant("one", np.array([1])), made.constant("axis", np.array([1]))
    lengths = made.add("ReduceSum", ["attention_mask", axis], "lengths", keepdims=1)
    before = made.add("Cast", [made.add("Sub", [lengths, one], "lengths/Sub")], "seqlens_k", to=TensorProto.INT32)
    place = made.constant("place", np.array(1))
    size = made.add("Gather", [made.add("Shape", ["attention_mask"], "mask/Shape"), place], "mask/Gather")
    total = made.add("Cast", [size], "total", to=TensorProto.INT32)

    table = made.constant("model.embed_tokens.weight", weights["model.embed_tokens.weight"])
    stream = made.add("Gather", [table, "input_ids"], "embedded")
    scale = made.constant("norm.0", weights["model.layers.0.input_layernorm.weight"])
    normed = made.add("SimplifiedLayerNormalization", [stream, scale], "normed.0", epsilon=eps, axis=-1)
    for layer in range(layers):
        path = f"model.layers.{layer}"
        past, present = (
            [f"{name}.{layer}.{part}" for part in ("key", "value")] for name in ("past_key_values", "present")
        )
        parts = [product(normed, f"{path}.self_attn.{name}_proj") for name in "qkv"]
        attention = made.add(
            "GroupQueryAttention",
            [*parts, *past, before, total, *caches],
            f"{path}/attention",
            *present,
            domain=MICROSOFT,
            num_heads=config.num_attention_heads,
            kv_num_heads=kv_heads,
            do_rotary=1,
        )
        written = product(attention, f"{path}.self_attn.o_proj")
        scale = made.constant(f"{path}.norm", weights[f"{path}.post_attention_layernorm.weight"])
        normed, stream = _skip(made, stream, written, scale, f"{path}/mid", eps)
        gate, up = (product(normed, f"{path}.mlp.{name}_proj") for name in ("gate", "up"))
        silu = made.add("Mul", [gate, made.add("Sigmoid", [gate], f"{path}/Sigmoid")], f"{path}/silu")
        written = product(made.add("Mul", [silu, up], f"{path}/gated"), f"{path}.mlp.down_proj")
        is_last = layer == layers - 1
        following = "model.norm" if is_last else f"model.layers.{layer + 1}.input_layernorm"
        scale = made.constant(f"{path}.end", weights[f"{following}.weight"])
        normed, stream = _skip(made, stream, written, scale, f"{path}/end", eps)
    head = made.constant("lm_head.weight", weights["lm_head.weight"].T)
    made.add("MatMul", [normed, head], "logits")

    caches_at = [f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
    info, kept = helper.make_tensor_value_info, ["batch_size", kv_heads]
    graph = helper.make_graph(
        made.nodes,
        "model",
        [
            info("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"]),
            info("attention_mask", TensorProto.INT64, ["batch_size", "total_sequence_length"]),
            *(
                info(f"past_key_values.{at}", TensorProto.FLOAT, [*kept, "past_sequence_length", width])
                for at in caches_at
            ),
        ],
        [
            info("logits", TensorProto.FLOAT, ["batch_size", "sequence_length", config.vocab_size]),
            *(info(f"present.{at}", TensorProto.FLOAT, [*kept, "total_sequence_length", width]) for at in caches_at),
        ],
        made.constants,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(MICROSOFT, 1)]
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), file)
    return file


def _skip(made: _Nodes, stream: str, written: str, scale: str, name: str, eps: float) -> tuple[str, str]:
    """The normed sum, and the sum itself."""
    outputs = (f"{name}/normed", "", "", f"{name}/sum")
    made.add("SkipSimplifiedLayerNormalization", [stream, written, scale], *outputs, domain=MICROSOFT, epsilon=eps)
    return outputs[0], outputs[3]
