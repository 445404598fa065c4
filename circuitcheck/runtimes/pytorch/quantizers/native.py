"""Quantized candidates made by torchao and bitsandbytes, which then run their own kernels."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from circuitcheck.core.errors import ModelError
from circuitcheck.core.phrases import extra_needed
from circuitcheck.runtimes.pytorch.ports.structure import Structure
from circuitcheck.runtimes.pytorch.quantizers.rtn import float_notes, is_float, linear_weights
from circuitcheck.runtimes.pytorch.quiet import quiet_bitsandbytes, quiet_import

GROUP = 32
"""Inputs that share a scale in `int4-weight`: the smallest group that torchao's kernels know."""

TORCHAO_CONFIGS = {
    "int8": "Int8DynamicActivationInt8WeightConfig",
    "int8-weight": "Int8WeightOnlyConfig",
    "float8-weight": "Float8WeightOnlyConfig",
}
"""Spec to torchao's class of that meaning; `int4-weight` needs more than one."""

PACKS = "support_avx512bf16_for_cpu"
"""Attribute of `Linear4bit`: whether its first pass repacks its weight."""

UNPACKING = 0.01
"""Relative error of an unpacked weight that rounding explains, in bfloat16 too; other blocks' scales make it larger."""

PORTABLE_NOTE = "bitsandbytes' 4-bit linear maps run its portable kernel, not the one for CPUs with AVX512-BF16."

NO_CONV1D = "torchao skips Conv1D; use int8-rtn, int4-rtn or another rtn candidate"


def quantize_torchao(module: nn.Module, structure: Structure, spec: str) -> tuple[str, ...]:
    """Quantizes the `Linear` modules of the layers with torchao's `quantize_`, in place.

    Args:
        module: a freshly loaded model.
        structure: where its layers are.
        spec: `int8` (int8 weights per output channel, activations per row and dynamic), `int8-weight`, `int4-weight`
            (groups of 32 inputs) or `float8-weight` (e4m3 per output channel).

    Returns:
        What a reader of the report must know.

    Raises:
        ModelError: torchao is not installed, or nothing was quantized.
    """
    library = _library("torchao.quantization", spec)
    linears = {path: part for path, part in _linears(module, structure).items() if isinstance(part, nn.Linear)}
    notes: list[str] = []
    with quiet_import():
        for config, paths in _torchao_configs(library, spec, linears, notes):
            library.quantize_(module, config, filter_fn=lambda _, path, chosen=paths: path in chosen)
    _require_quantized(module, linears, spec, NO_CONV1D)
    return (*notes, *float_notes(module, structure))


def _torchao_configs(
    library: Any, spec: str, linears: dict[str, nn.Linear], notes: list[str]
) -> Iterator[tuple[Any, dict[str, nn.Linear]]]:
    """Each config with the modules that it is for. The inductor's settings are everybody's and stay as they are."""
    if spec in TORCHAO_CONFIGS:
        yield getattr(library, TORCHAO_CONFIGS[spec])(set_inductor_config=False), linears
    else:
        # Int4WeightOnlyConfig has no packing that runs on a CPU without further packages (torchao 0.18).
        whole = {path: part for path, part in linears.items() if part.in_features % GROUP}
        grouped = {path: part for path, part in linears.items() if path not in whole}
        if whole:
            notes.append(
                f"Groups of {GROUP} do not divide the inputs of {len(whole)} linear maps, the first of which is "
                f"{next(iter(whole))}: one scale for each output channel there."
            )
        int4: torch.dtype = getattr(torch, "int4")  # noqa: B009 - not in PyTorch's stubs
        yield library.IntxWeightOnlyConfig(weight_dtype=int4, granularity=library.PerGroup(GROUP)), grouped
        yield library.IntxWeightOnlyConfig(weight_dtype=int4, granularity=library.PerAxis(0)), whole


def quantize_bitsandbytes(module: nn.Module, structure: Structure, spec: str) -> tuple[str, ...]:
    """Replaces the linear maps of the layers by bitsandbytes modules, in place, as transformers does when it loads.

    Args:
        module: a freshly loaded model, on its device.
        structure: where its layers are.
        spec: `bnb-int8` (`Linear8bitLt`, threshold 0, activations per row) or `bnb-nf4` (`Linear4bit`, blocks of 64).

    Returns:
        What a reader of the report must know.

    Raises:
        ModelError: bitsandbytes is not installed, or nothing was quantized.
    """
    library = _library("bitsandbytes", spec)
    quiet_bitsandbytes()
    linears = _linears(module, structure)
    for path, part in linears.items():
        module.set_submodule(path, _bitsandbytes_linear(library.nn, part, spec))
    replaced = {path: module.get_submodule(path) for path in linears}
    _require_quantized(module, replaced, spec, "its layers hold no linear map that bitsandbytes knows")
    notes = [] if spec == "bnb-int8" else settle(replaced)
    return (*notes, *float_notes(module, structure))


def _bitsandbytes_linear(library: Any, part: nn.Module, spec: str) -> nn.Module:
    """As `transformers.integrations.bitsandbytes` makes it under a default config; `Conv1D` is transposed."""
    weight: Tensor = part.get_parameter("weight").detach()
    bias = getattr(part, "bias", None)
    if isinstance(part, Conv1D):
        weight = weight.T.contiguous()
    outputs, inputs = weight.shape
    with torch.device("meta"):
        if spec == "bnb-int8":
            new = library.Linear8bitLt(inputs, outputs, bias is not None, has_fp16_weights=False, threshold=0.0)
        else:
            new = library.Linear4bit(inputs, outputs, bias is not None, torch.float32, False, "nf4")
    # Both quantize on the way to a device, also where that is the CPU that the weight is on.
    if spec == "bnb-int8":
        waiting = library.Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)
    else:
        waiting = library.Params4bit(weight.cpu(), compress_statistics=False, quant_type="nf4", module=new)
    new.weight = waiting.to(weight.device)
    if bias is not None:
        new.bias = nn.Parameter(bias.detach(), requires_grad=False)
    new.eval()
    return new  # type: ignore[no-any-return]


def settle(parts: dict[str, Any]) -> list[str]:
    """Makes 4-bit modules of bitsandbytes run the kernel that every CPU has, in the type of their input.

    On a CPU with AVX512-BF16 the first pass repacks the weights otherwise. That fails where the inputs are no multiple
    of 64 or the outputs none of 32, and `state_dict()` and `save_pretrained` then put most blocks' scales in the wrong
    place, also in the model itself (bitsandbytes 0.50: the embedded model's logits are off by 9 % before, 59 % after).

    The portable kernel has a fault of its own, where blocks of weights span rows: it is looked for, and said.

    Args:
        parts: path to module.

    Returns:
        Notes, where anything was changed or found wrong.
    """
    parts = {path: part for path, part in parts.items() if part.weight.device.type == "cpu"}
    packing = [part for part in parts.values() if getattr(part, PACKS, False) and not _is_packed(part)]
    for part in packing:
        setattr(part, PACKS, False)
    wrong = [path for path, part in parts.items() if _unpacked_wrongly(part)]
    notes = [PORTABLE_NOTE] if packing else []
    if wrong:
        notes.append(
            f"bitsandbytes unpacks {len(wrong)} 4-bit weights wrongly on this CPU, the first of which is that of "
            f"{wrong[0]}: what is measured is what it computes here, and not what it computes elsewhere."
        )
    return notes


def _is_packed(part: Any) -> bool:
    return bool(getattr(part.weight.quant_state, "packing_format_for_cpu", False))


def _unpacked_wrongly(part: Any) -> bool:
    """Whether a 4-bit weight comes out of bitsandbytes as other than its codes and scales say."""
    from bitsandbytes.functional import dequantize_4bit, dequantize_blockwise

    state = part.weight.quant_state
    if state is None or _is_packed(part) or part.in_features % state.blocksize == 0:
        return False
    packed = part.weight.detach().view(torch.uint8).flatten()
    codes = torch.stack([packed >> 4, packed & 15], -1).flatten().int()
    scales = dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
    said = state.code[codes] * scales.flatten().float().repeat_interleave(state.blocksize)[: len(codes)]
    found = dequantize_4bit(part.weight.detach(), state).float().flatten()
    said = said[: len(found)]
    return bool((found - said).norm() > UNPACKING * said.norm())


def _library(name: str, spec: str) -> Any:
    with quiet_import():
        try:
            return import_module(name)
        except ImportError as error:
            raise ModelError(extra_needed(f"candidate {spec}", name.partition(".")[0])) from error


def _linears(module: nn.Module, structure: Structure) -> dict[str, nn.Module]:
    """Paths and modules of the float linear maps inside the layers; stacks of experts are none that a library knows."""
    found = linear_weights(module, structure)
    return {part.path: part.module for part in found if isinstance(part.module, nn.Linear | Conv1D)}


def _require_quantized(module: nn.Module, parts: dict[str, Any], spec: str, reason: str) -> None:
    left = [path for path, part in parts.items() if is_float(part.weight)]
    if left or not parts:
        what = f"{len(left)} of {len(parts)} projections stayed float" if left else "no projection was quantized"
        raise ModelError(f"{spec}, {type(module).__name__}: {what}: {reason}.")
