"""Where the weights of a decoder's heads and of its residual stream lie, as views of the model's own memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class Names:
    """Module paths of an architecture.

    Attributes:
        layers: of the list of layers; the next eight are relative to a layer.
        attention_norm: of the norm before attention.
        inputs: query, key and value, or the one map in which they are fused.
        output: of the attention output projection.
        mlp_norm: of the norm before the MLP.
        mlp_inputs: what reads the stream in the MLP.
        mlp_output: what the MLP writes with.
        interleaved: whether a fused map holds query, key and value head by head; else all queries come first.
        embeddings: of everything that the stream begins with.
        final_norm: of the norm before the unembedding.
    """

    layers: str
    attention_norm: str
    inputs: tuple[str, ...]
    output: str
    mlp_norm: str
    mlp_inputs: tuple[str, ...]
    mlp_output: str
    embeddings: tuple[str, ...]
    final_norm: str
    interleaved: bool = False


_LLAMA = Names(
    layers="model.layers",
    attention_norm="input_layernorm",
    inputs=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    output="self_attn.o_proj",
    mlp_norm="post_attention_layernorm",
    mlp_inputs=("mlp.gate_proj", "mlp.up_proj"),
    mlp_output="mlp.down_proj",
    embeddings=("model.embed_tokens",),
    final_norm="model.norm",
)

NAMES: dict[str, Names] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "phi3": replace(_LLAMA, inputs=("self_attn.qkv_proj",), mlp_inputs=("mlp.gate_up_proj",)),
    "gpt_neox": Names(
        layers="gpt_neox.layers",
        attention_norm="input_layernorm",
        inputs=("attention.query_key_value",),
        output="attention.dense",
        mlp_norm="post_attention_layernorm",
        mlp_inputs=("mlp.dense_h_to_4h",),
        mlp_output="mlp.dense_4h_to_h",
        embeddings=("gpt_neox.embed_in",),
        final_norm="gpt_neox.final_layer_norm",
        interleaved=True,
    ),
    "gpt2": Names(
        layers="transformer.h",
        attention_norm="ln_1",
        inputs=("attn.c_attn",),
        output="attn.c_proj",
        mlp_norm="ln_2",
        mlp_inputs=("mlp.c_fc",),
        mlp_output="mlp.c_proj",
        embeddings=("transformer.wte", "transformer.wpe"),
        final_norm="transformer.ln_f",
    ),
    "opt": Names(
        layers="model.decoder.layers",
        attention_norm="self_attn_layer_norm",
        inputs=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        output="self_attn.out_proj",
        mlp_norm="final_layer_norm",
        mlp_inputs=("fc1",),
        mlp_output="fc2",
        embeddings=("model.decoder.embed_tokens", "model.decoder.embed_positions"),
        final_norm="model.decoder.final_layer_norm",
    ),
}
"""Model type to names."""


@dataclass(frozen=True)
class Rows:
    """What makes one head's queries, keys or values; views.

    Attributes:
        weight: `[d_head, d_model]`.
        bias: `[d_head]`, or None.
    """

    weight: Tensor
    bias: Tensor | None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Weight and bias, where there is one."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


@dataclass(frozen=True)
class HeadMaps:
    """One layer's attention, head by head; writing into what is here changes the model.

    Attributes:
        queries: of every query head.
        keys: of every key/value group.
        values: likewise.
        outputs: columns of the output projection that read each query head's z, `[d_model, d_head]`.
    """

    queries: tuple[Rows, ...]
    keys: tuple[Rows, ...]
    values: tuple[Rows, ...]
    outputs: tuple[Tensor, ...]

    @property
    def per_group(self) -> int:
        """Query heads that share a key and a value."""
        return len(self.queries) // len(self.values)

    def members(self, group: int) -> range:
        """Query heads of a key/value group."""
        return range(group * self.per_group, (group + 1) * self.per_group)


def matrix(linear: Any) -> Tensor:
    """Weight of a linear map, `[out, in]`; a view, also of GPT-2's transposed `Conv1D`."""
    weight: Tensor = linear.weight.detach()
    return weight.T if isinstance(linear, Conv1D) else weight


def bias_of(linear: Any) -> Tensor | None:
    """Bias of a linear map, `[out]`; a view."""
    bias = getattr(linear, "bias", None)
    return None if bias is None else bias.detach()


def names_of(module: nn.Module) -> Names:
    """Names of a model's architecture.

    Raises:
        KeyError: it is not in the table.
    """
    config: Any = module.config
    return NAMES[config.model_type]


def layers_of(module: nn.Module) -> list[nn.Module]:
    """All layers, in order."""
    return list(module.get_submodule(names_of(module).layers).children())


@dataclass(frozen=True)
class Channels:
    """Which outputs of which linear map make one head's queries, keys or values."""

    linear: Any
    rows: slice


def head_channels(module: nn.Module, layer: int) -> tuple[list[Channels], list[Channels], list[Channels]]:
    """Where the queries of every head, and the keys and values of every key/value group of a layer are made."""
    names, part = names_of(module), layers_of(module)[layer]
    heads, groups = head_counts(module)
    width = matrix(part.get_submodule(names.output)).shape[1] // heads
    maps = [part.get_submodule(path) for path in names.inputs]
    if len(maps) == 3:
        places = [(linear, range(count)) for linear, count in zip(maps, (heads, groups, groups), strict=True)]
    elif names.interleaved:
        places = [(maps[0], range(first, 3 * heads, 3)) for first in range(3)]
    else:
        bounds = ((0, heads), (heads, heads + groups), (heads + groups, heads + 2 * groups))
        places = [(maps[0], range(*some)) for some in bounds]
    queries, keys, values = (
        [Channels(linear, slice(place * width, (place + 1) * width)) for place in some] for linear, some in places
    )
    return queries, keys, values


def head_counts(module: Any) -> tuple[int, int]:
    """Query heads and key/value groups of a layer."""
    heads: int = module.config.num_attention_heads
    return heads, getattr(module.config, "num_key_value_heads", None) or heads


def head_maps(module: nn.Module, layer: int) -> HeadMaps:
    """A layer's heads."""
    output = matrix(layers_of(module)[layer].get_submodule(names_of(module).output))
    queries, keys, values = (tuple(map(_rows, some)) for some in head_channels(module, layer))
    return HeadMaps(queries, keys, values, tuple(output.split(output.shape[1] // len(queries), dim=1)))


def _config(module: nn.Module) -> Any:
    return module.config


def _rows(channels: Channels) -> Rows:
    bias = bias_of(channels.linear)
    return Rows(matrix(channels.linear)[channels.rows], None if bias is None else bias[channels.rows])


def linear_maps(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Path and module of every linear map inside the layers, in order of execution."""
    names = names_of(module)
    for number, part in enumerate(layers_of(module)):
        for path in (*names.inputs, names.output, *names.mlp_inputs, names.mlp_output):
            yield f"{names.layers}.{number}.{path}", part.get_submodule(path)


def readers(module: nn.Module) -> Iterator[tuple[nn.Module, list[nn.Module]]]:
    """Each norm of the residual stream with the linear maps that read it, the unembedding among them."""
    names = names_of(module)
    for part in layers_of(module):
        for norm, paths in ((names.attention_norm, names.inputs), (names.mlp_norm, names.mlp_inputs)):
            yield part.get_submodule(norm), [part.get_submodule(path) for path in paths]
    yield module.get_submodule(names.final_norm), [_unembedding(module)]


def writers(module: nn.Module) -> Iterator[nn.Module]:
    """The linear maps that write into the residual stream."""
    names = names_of(module)
    for part in layers_of(module):
        yield from (part.get_submodule(names.output), part.get_submodule(names.mlp_output))


def embeddings(module: nn.Module) -> list[Tensor]:
    """What the residual stream begins with, `[rows, d_model]` each; views."""
    return [module.get_submodule(path).get_parameter("weight").detach() for path in names_of(module).embeddings]


def untie(module: nn.Module) -> None:
    """Gives the unembedding weights of its own, where it shares them with the token embedding."""
    unembedding = _unembedding(module)
    unembedding.weight = nn.Parameter(unembedding.weight.detach().clone(), unembedding.weight.requires_grad)
    _config(module).tie_word_embeddings = False


def _unembedding(module: Any) -> Any:
    return module.get_output_embeddings()
