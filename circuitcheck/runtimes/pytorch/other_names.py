"""What other programs call a model's projections: tensors of llama.cpp, and nodes of an exported ONNX graph."""

from __future__ import annotations

ATTENTION = ("self_attn", "attention.attention", "attn.attention", "self_attention", "attention", "attn")

QKV, OUTPUT, UP, DOWN, GATE = "attn_qkv", "attn_output", "ffn_up", "ffn_down", "ffn_gate"

IN_ATTENTION = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    **dict.fromkeys(("query_key_value", "c_attn", "qkv_proj", "Wqkv"), QKV),
    **dict.fromkeys(("o_proj", "out_proj", "c_proj", "dense"), OUTPUT),
}
IN_MLP = {
    "gate_proj": GATE,
    **dict.fromkeys(("up_proj", "gate_up_proj", "dense_h_to_4h", "c_fc", "fc_in", "fc1"), UP),
    **dict.fromkeys(("down_proj", "dense_4h_to_h", "c_proj", "fc_out", "fc2"), DOWN),
}
"""Last part of a path to llama.cpp's name, inside attention and inside the MLP."""

EXPERTS = tuple(f"{name}_exps" for name in (GATE, UP, DOWN))
SHARED = "shared_expert"


def llama_cpp_tensors(layer: int, inside: str) -> tuple[str, ...]:
    """What llama.cpp calls the weights of a linear map of a layer; none where that is not known.

    Args:
        layer: from 0.
        inside: path of the map inside of the layer, such as `mlp.down_proj`.
    """
    parts = inside.split(".")
    if parts[-1] == "experts":
        names = EXPERTS
    elif parts[0] in ATTENTION:
        names = (IN_ATTENTION.get(parts[-1], ""),)
    else:
        name = IN_MLP.get(parts[-1], "")
        names = (f"{name}_shexp" if name and SHARED in inside else name,)
    return tuple(f"blk.{layer}.{name}.weight" for name in names if name)


def onnx_parts(layer_path: str, inside: str) -> tuple[str, str]:
    """What tells the nodes that an exported ONNX graph makes of a linear map.

    The exporter by tracing names nodes by their modules, and leaves out the outermost ones of some models, so that the
    end of such a name tells; torch's present exporter says in a node's metadata which module it is of.

    Args:
        layer_path: of the layer, such as `model.layers.3`.
        inside: path of the map inside of it.
    """
    *_, layers, number = ("", *layer_path.split("."))
    return f"/{layers}.{number}/{inside.replace('.', '/')}/", f"/{layer_path}.{inside}: "
