"""Finds a model's layers, attention modules and output projections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from circuitcheck.core.errors import SiteError
from circuitcheck.runtimes.pytorch.ports.architectures import (
    ARCHITECTURES,
    ATTENTION_NAMES,
    MLP_NAMES,
    PROJECTION_NAMES,
    LayerNames,
    text_config,
)


@dataclass(frozen=True)
class LayerSite:
    """One layer's attention heads.

    Attributes:
        layer: number of the layer, from 0.
        path: module path of the layer, for messages and lookups.
        attention: module path of the attention module.
        projection: module path of the attention output projection, whose input is `z`.
        mlp: module path of the module that ends the MLP, or None where none was found.
        n_heads: query heads.
        d_head: width of one head's slice of the projection's input.
        attention_output: module path of what the attention adds to the residual stream; the projection by default.
        mlp_output: the same of the MLP; `mlp` by default.
    """

    layer: int
    path: str
    attention: str
    projection: str
    mlp: str | None
    n_heads: int
    d_head: int
    attention_output: str | None = None
    mlp_output: str | None = None


@dataclass(frozen=True)
class Structure:
    """Where everything is that circuitcheck hooks.

    Attributes:
        layers: one site a layer, in order of execution.
        embedding: module path of the token embedding, or None.
        final_norm: module path of the norm before the unembedding, or None.
        output_layer: module path of the unembedding, or None for a model that puts out something else than logits of
            tokens, such as a classifier.
    """

    layers: tuple[LayerSite, ...]
    embedding: str | None
    final_norm: str | None
    output_layer: str | None


NEEDED_SETTINGS = {"model_type": str, "num_hidden_layers": int, "num_attention_heads": int, "hidden_size": int}
"""What a config must say for heads to be found, and as what; a list of head counts, one a layer, is not understood."""


def resolve(module: nn.Module) -> Structure:
    """Finds the sites of a Hugging Face decoder, or of an encoder.

    Raises:
        SiteError: no layers or no output projection can be found; the message says what was looked for and what was
            there.
    """
    config = text_config(getattr(module, "config", None))
    if config is None:
        raise SiteError(f"{type(module).__name__} has no Hugging Face config: pass a Structure of your own.")
    if getattr(module.config, "is_encoder_decoder", False):
        raise SiteError(
            f"{type(module).__name__} is an encoder-decoder; only decoders and encoders alone are measured."
        )
    missing = [name for name in NEEDED_SETTINGS if not isinstance(getattr(config, name, None), NEEDED_SETTINGS[name])]
    if missing:
        raise SiteError(
            f"{type(module).__name__}: its config does not say {', '.join(missing)}: pass a Structure of your own."
        )
    layers_path, layers = _layers(module, config)
    sites = tuple(_site(index, layer, f"{layers_path}.{index}", config) for index, layer in enumerate(layers))
    paths = {id(part): path for path, part in module.named_modules()}
    embedding, output = _called(module, "get_input_embeddings"), _called(module, "get_output_embeddings")
    return Structure(
        layers=sites,
        embedding=None if embedding is None else paths[id(embedding)],
        final_norm=_final_norm(module, layers_path),
        output_layer=None if output is None else paths[id(output)],
    )


def _called(module: nn.Module, getter: str) -> nn.Module | None:
    method = getattr(module, getter, None)
    return method() if callable(method) else None


def _layers(module: nn.Module, config: Any) -> tuple[str, nn.ModuleList]:
    """The text model's list of layers, beside which a vision tower may have one of the same length."""
    count = config.num_hidden_layers
    found = {
        path: part
        for path, part in module.named_modules()
        if isinstance(part, nn.ModuleList) and len(part) == count and len({type(layer) for layer in part}) == 1
    }
    if not found:
        raise SiteError(
            f"{type(module).__name__}: no list of {count} equal layers was found (config.num_hidden_layers)."
        )
    text = _called(module, "get_decoder")
    inside = {id(part) for part in text.modules()} if isinstance(text, nn.Module) else set()
    return next(((path, part) for path, part in found.items() if id(part) in inside), next(iter(found.items())))


def _site(index: int, layer: nn.Module, path: str, config: Any) -> LayerSite:
    names = ARCHITECTURES.get(config.model_type) or _names_by_structure(layer, path, config)
    attention = f"{path}.{names.attention}"
    projection = f"{attention}.{names.projection}"
    try:
        width = input_width(layer.get_submodule(f"{names.attention}.{names.projection}"))
    except AttributeError as error:
        raise SiteError(f"{path}: no module {names.attention}.{names.projection} in {type(layer).__name__}.") from error
    n_heads = config.num_attention_heads
    if width is None or width % n_heads:
        raise SiteError(f"{projection}: its input width {width} does not divide into {n_heads} heads.")
    return LayerSite(
        layer=index,
        path=path,
        attention=attention,
        projection=projection,
        mlp=f"{path}.{names.mlp}" if names.mlp else None,
        n_heads=n_heads,
        d_head=width // n_heads,
        attention_output=f"{path}.{names.attention_output}" if names.attention_output else None,
        mlp_output=f"{path}.{names.mlp_output}" if names.mlp_output else None,
    )


def input_width(projection: nn.Module) -> int | None:
    """Width of a linear map's input, also for GPT-2's transposed `Conv1D`; None where it cannot be told."""
    for name in ("in_features", "nx"):
        width = getattr(projection, name, None)
        if isinstance(width, int):
            return width
    return None


def output_width(projection: nn.Module) -> int | None:
    """Width of a linear map's output, also for GPT-2's transposed `Conv1D`; None where it cannot be told."""
    for name in ("out_features", "nf"):
        width = getattr(projection, name, None)
        if isinstance(width, int):
            return width
    return None


def _names_by_structure(layer: nn.Module, path: str, config: Any) -> LayerNames:
    """An attention-like child that holds exactly one linear map back to the residual stream's width."""
    found = [
        LayerNames(attention, name, next((mlp for mlp in MLP_NAMES if hasattr(layer, mlp)), ""))
        for attention, part in layer.named_children()
        if attention in ATTENTION_NAMES
        for name, child in part.named_children()
        if name in PROJECTION_NAMES and output_width(child) == config.hidden_size
    ]
    if len(found) != 1:
        options = ", ".join(f"{names.attention}.{names.projection}" for names in found) or "none"
        children = ", ".join(name for name, _ in layer.named_children())
        raise SiteError(
            f"{path} ({type(layer).__name__}, model type {config.model_type!r}): exactly one attention output "
            f"projection is needed, found {options}. The layer's parts are: {children}. "
            "This architecture is not known; please open an issue that names it."
        )
    return found[0]


def _final_norm(module: nn.Module, layers_path: str) -> str | None:
    """The last norm beside the list of layers."""
    parent = layers_path.rpartition(".")[0]
    siblings = (module.get_submodule(parent) if parent else module).named_children()
    names = [name for name, part in siblings if "norm" in type(part).__name__.lower()]
    return f"{parent}.{names[-1]}".lstrip(".") if names else None
