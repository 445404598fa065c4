"""`int8-sim`: INT8 inference as the published experiment simulated it where it had no native kernel.

The weights stay float32. Activations are fake-quantized, per tensor, symmetric and dynamic: scale = max|x| / 127,
round, clamp to [-127, 127], times scale; after the embedding, every attention output, every MLP output, every layer
output and the final norm. The tensor that a scale belongs to is one prompt's, as in a run of one prompt at a time, so
that a prompt's logits do not depend on its batch mates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from circuitcheck.core.errors import SiteError
from circuitcheck.runtimes.pytorch.ports.structure import LayerSite, Structure

LEVELS = 127
NOTE = (
    "int8-sim is a simulation, not an INT8 kernel: float32 weights, activations rounded to 8 bits (per prompt, "
    "symmetric, dynamic) after the embedding, every attention, MLP and layer output, and the final norm."
)


def fake_quantize(x: Tensor) -> Tensor:
    """Rounds `x`, `[batch, ...]`, to 255 levels between plus and minus each row's largest magnitude."""
    largest = x.abs().amax(dim=tuple(range(1, x.dim())), keepdim=True)
    scale = torch.where(largest > 0, largest / LEVELS, torch.ones_like(largest))
    return (x / scale).round().clamp(-LEVELS, LEVELS) * scale


def simulate_int8(module: nn.Module, structure: Structure) -> None:
    """Attaches the rounding to a freshly loaded model, for good.

    Raises:
        SiteError: the embedding, an MLP or the final norm cannot be found, so the simulation would be incomplete.
    """
    paths = [structure.embedding, structure.final_norm]
    for site in structure.layers:
        paths += [site.attention, site.mlp, site.path]
    if None in paths:
        raise SiteError(
            f"{type(module).__name__}: int8-sim needs the embedding, every MLP and the final norm, and not all were "
            "found; choose another candidate precision."
        )
    for path in [structure.embedding, structure.final_norm]:
        module.get_submodule(str(path)).register_forward_hook(_round_output)
    for site in structure.layers:
        _simulate_layer(module, site)


def _simulate_layer(module: nn.Module, site: LayerSite) -> None:
    prompts = 0

    def count_prompts(_: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        nonlocal prompts
        prompts = len(arguments[0] if arguments else options["hidden_states"])

    def round_by_prompt(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        # Some layers (OPT's) hand their MLP all tokens behind one another, `[batch * seq, d_model]`.
        if isinstance(output, Tensor) and output.dim() == 2:
            return fake_quantize(output.reshape(prompts, -1, output.shape[-1])).reshape(output.shape)
        return _round_output(_, __, output)

    layer = module.get_submodule(site.path)
    layer.register_forward_pre_hook(count_prompts, with_kwargs=True)
    module.get_submodule(site.attention).register_forward_hook(_round_output)
    module.get_submodule(str(site.mlp)).register_forward_hook(round_by_prompt)
    layer.register_forward_hook(_round_output)


def _round_output(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
    if isinstance(output, tuple):
        return (fake_quantize(output[0]), *output[1:])
    return fake_quantize(output)
