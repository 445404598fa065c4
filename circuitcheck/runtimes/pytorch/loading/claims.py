"""Proves that a release which claims to be quantized is, and in the bits that it claims."""

from __future__ import annotations

from typing import Any

from circuitcheck.core.census import Census
from circuitcheck.core.errors import ModelError
from circuitcheck.runtimes.pytorch.loading.gguf import GGUFContent
from circuitcheck.runtimes.pytorch.loading.source import QUANTIZED_TYPES, Source, stored_types


def claimed_method(source: Source, content: GGUFContent | None) -> str | None:
    """How a release says that it was quantized; None where it claims nothing."""
    if content is not None:
        return "gguf" if any(tensor.is_quantized for tensor in content.tensors) else None
    config = source.quantization
    return str(config.get("quant_method", "no method named")) if config else None


def require_quantized_files(source: Source) -> None:
    """Refuses a release that claims to be quantized but holds float weights only.

    Some loaders would quantize them when they load, and what was measured would not be what was released.

    Raises:
        ModelError: says what the files hold.
    """
    config = source.quantization
    is_dense = config.get("quantization_status") in ("initialized", "calibration", "frozen")
    if not config or is_dense:  # compressed-tensors may keep rounded weights in floats until they are compressed
        return
    types = stored_types(source.directory)
    if types and not types & set(QUANTIZED_TYPES):
        raise ModelError(
            f"{source} claims to be quantized by {config.get('quant_method')}, but its files hold "
            f"{', '.join(sorted(types))} weights only. Save it again after it was quantized, or remove "
            "quantization_config from its config.json."
        )


def require_claim(source: Source, census: Census) -> None:
    """Refuses a model that claims to be quantized and is not, or in other bits.

    Raises:
        ModelError: says what was found instead.
    """
    if census.claim is None:
        return
    if not census.quantized:
        found = ", ".join(f"{kind.modules} {kind.module} in {kind.weight}" for kind in census.before[:4])
        raise ModelError(
            f"{source} claims to be quantized by {census.claim}, but none of its {census.projections} projections is "
            f"(found: {found}). Many quantizers skip GPT-2's Conv1D without a word; choose one that knows the model's "
            "layers, or release it as what it is."
        )
    claimed = claimed_bits(source.quantization)
    if claimed is not None and census.bits is not None and round(census.bits) != claimed:
        raise ModelError(
            f"{source} claims {claimed} bits ({census.claim}), but its weights have {census.bits:g}. Save it again "
            "from the original weights."
        )


def claimed_bits(config: dict[str, Any]) -> int | None:
    """Bits of a weight that a `quantization_config` claims; None where it names none, or several."""
    if config.get("load_in_4bit") or config.get("_load_in_4bit"):
        return 4
    if config.get("load_in_8bit") or config.get("_load_in_8bit"):
        return 8
    groups = config.get("config_groups")
    said = {config.get("bits", config.get("w_bit"))}
    if isinstance(groups, dict):
        weights = [group.get("weights") for group in groups.values() if isinstance(group, dict)]
        said = {weight.get("num_bits") for weight in weights if isinstance(weight, dict)}
    only = said.pop() if len(said) == 1 else None
    return only if isinstance(only, int) else None
