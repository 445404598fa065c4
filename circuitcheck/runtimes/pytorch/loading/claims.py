"""Proves that a release is what its config.json claims: quantized, in those bits, and transformed in its weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from circuitcheck.core.census import Census
from circuitcheck.core.errors import ModelError
from circuitcheck.core.phrases import listed
from circuitcheck.runtimes.pytorch.loading.gguf import GGUFContent
from circuitcheck.runtimes.pytorch.loading.source import QUANTIZED_TYPES, Source, stored_types

FUSED = ("weight_input", "weight_output")
"""Where compressed-tensors' transforms are in the weights that were saved; elsewhere they are applied at run time."""


def claimed_method(source: Source, content: GGUFContent | None) -> str | None:
    """How a release says that it was quantized; None where it claims nothing."""
    if content is not None:
        return "gguf" if any(tensor.is_quantized for tensor in content.tensors) else None
    config = source.quantization
    return str(config.get("quant_method", "no method named")) if config and not is_plain(config) else None


def is_plain(config: dict[str, Any]) -> bool:
    """Whether a `quantization_config` quantizes nothing: compressed-tensors writes one beside rotated floats, too."""
    named = config.get("config_groups") or config.get("kv_cache_scheme")
    return config.get("quant_method") == "compressed-tensors" and not named


def plain_notes(source: Source) -> tuple[str, ...]:
    """What a reader of the report must know of a release whose `quantization_config` quantizes nothing."""
    config = source.quantization
    if not config or not is_plain(config):
        return ()
    fused = sorted({repr(name) for name, location in _transforms(config) if location in FUSED})
    within = f"; transforms that its weights hold: {listed(fused, 5)}" if fused else ""
    return (
        f"Its quantization_config ({config['quant_method']}) quantizes nothing{within}. It is measured as the float "
        "release that it is.",
    )


def require_transforms(source: Source, module: nn.Module) -> None:
    """Refuses a release whose transforms of activations were not applied when it was loaded.

    Up to 5.23 transformers does not pass `transform_config` on. Where a transform's weights are in the file they are
    unexpected keys, but the same release without them would load, and compute something else.

    Raises:
        ModelError: says which transforms.
    """
    present = {path.rpartition(".")[2] for path, _ in module.named_modules()}
    missing = [
        f"{name!r} at {location!r}"
        for name, location in _transforms(source.quantization)
        if location not in FUSED and f"{name}_{location}" not in present
    ]
    if missing:
        raise ModelError(
            f"{source} transforms activations while it runs (transform_config: {listed(missing, 5)}), which the "
            "installed transformers does not apply, so what would be measured is not the release. Gate it in memory, "
            "where its own runtime applies them: hook_module(model). Or release it with transforms in its weights only."
        )


def _transforms(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and location of compressed-tensors' transforms, as far as the file says them in the form that it should."""
    found = config.get("transform_config")
    groups = found.get("config_groups") if isinstance(found, dict) else None
    for name, group in groups.items() if isinstance(groups, dict) else ():
        places = group.get("apply") if isinstance(group, dict) else None
        for place in places if isinstance(places, list) else ():
            location = place.get("location") if isinstance(place, dict) else None
            if isinstance(location, str):
                yield name, location


def require_quantized_files(source: Source) -> None:
    """Refuses a release that claims to be quantized but holds float weights only.

    Some loaders would quantize them when they load, and what was measured would not be what was released.

    Raises:
        ModelError: says what the files hold.
    """
    config = source.quantization
    is_dense = config.get("quantization_status") in ("initialized", "calibration", "frozen")
    # compressed-tensors may keep rounded weights in floats until they are compressed.
    if not config or is_dense or is_plain(config):
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
