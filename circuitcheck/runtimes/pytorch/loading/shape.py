"""A model's shape from its configuration alone, on the meta device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from circuitcheck.core.bounded import read_bounded
from circuitcheck.core.errors import ModelError
from circuitcheck.core.model_shape import LayerShape, ModelShape
from circuitcheck.core.phrases import first_lines
from circuitcheck.core.strict_json import strict_json
from circuitcheck.runtimes.pytorch.loading.border import MOST_TEXT, require_counts
from circuitcheck.runtimes.pytorch.ports.structure import LayerSite, output_width, resolve
from circuitcheck.runtimes.pytorch.quiet import quiet

PARALLEL = ("gptj", "codegen", "phi", "cohere", "cohere2")
"""Model types whose attention and MLP read the same input; others say so in their configuration."""


def shape_of(source: str | Path) -> ModelShape:
    """Reads a configuration; no weights are needed, and none are made.

    Args:
        source: a Hugging Face directory, or a config.json.

    Raises:
        ModelError: there is no configuration, or it makes no model.
        SiteError: its heads cannot be found.
    """
    path = Path(source).expanduser()
    file = path / "config.json" if path.is_dir() else path
    name = (path if path.is_dir() else path.parent).resolve().name
    try:
        said = strict_json(read_bounded(file, MOST_TEXT))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read ({first_lines(error)}); give a directory with config.json.") from error
    if not isinstance(said, dict):
        raise ModelError(f"{file} holds no configuration.")
    require_counts(said, 0, str(file))
    module = _empty(said, file)
    structure = resolve(module)
    config = getattr(module.config, "get_text_config", lambda: module.config)()
    layers = tuple(_layer(module, site, config) for site in structure.layers)
    output = structure.output_layer
    return ModelShape(
        name=name,
        layers=layers,
        d_model=int(config.hidden_size),
        vocabulary=0 if output is None else output_width(module.get_submodule(output)) or 0,
        stored=sum(parameter.numel() for parameter in module.parameters()),
        is_parallel=_is_parallel(config),
    )


def _empty(said: dict[str, Any], file: Path) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = said.get("model_type")
    if not isinstance(kind, str):
        raise ModelError(f"{file} does not say its model_type.")
    try:
        with quiet(), torch.device("meta"):
            config = AutoConfig.for_model(**said)
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # every architecture raises its own
        raise ModelError(f"{file} does not make a model: {first_lines(error)}") from error


def _layer(module: nn.Module, site: LayerSite, config: Any) -> LayerShape:
    layer, projection = module.get_submodule(site.path), module.get_submodule(site.projection)
    attention, out = _weights(module.get_submodule(site.attention)), _weights(projection)
    stacks = [parameter for parameter in layer.parameters() if parameter.dim() == 3]
    chosen = getattr(config, "num_experts_per_tok", None) or getattr(config, "moe_topk", None) or 1
    used = sum(parameter.numel() * min(1, chosen / len(parameter)) for parameter in stacks)
    stored = sum(parameter.numel() for parameter in layer.parameters())
    rest = _weights(layer) - attention
    return LayerShape(site.n_heads, site.d_head, attention - out, out, round(rest + used), stored)


def _weights(part: nn.Module) -> int:
    """Weights of matrices; norms, biases and stacks of experts apart."""
    return sum(parameter.numel() for parameter in part.parameters() if parameter.dim() == 2)


def _is_parallel(config: Any) -> bool:
    said = [getattr(config, name, None) for name in ("use_parallel_residual", "parallel_attn")]
    return any(value is True for value in said) or config.model_type in PARALLEL
