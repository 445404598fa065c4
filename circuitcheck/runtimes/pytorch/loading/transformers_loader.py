"""Loading weights through transformers, as the release says that they are stored; what does not fit is refused."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from circuitcheck.core.errors import ModelError
from circuitcheck.core.garbage import without_collecting
from circuitcheck.core.phrases import extra_needed, first_lines, listed
from circuitcheck.runtimes.pytorch.loading.border import require_size
from circuitcheck.runtimes.pytorch.loading.claims import require_transforms
from circuitcheck.runtimes.pytorch.loading.device_map import DeviceMap, device_map_options, removed_with
from circuitcheck.runtimes.pytorch.loading.fingerprint import weight_files
from circuitcheck.runtimes.pytorch.loading.gguf import GGUFContent
from circuitcheck.runtimes.pytorch.loading.source import CONFIG, Source
from circuitcheck.runtimes.pytorch.quantizers.native import settle
from circuitcheck.runtimes.pytorch.quiet import quiet, quiet_import, quiet_quantizers

ATTENTION = "eager"
"""One attention implementation for references and candidates; every architecture has it."""

EXTRAS = {
    "torchao": ("torchao", ("torchao",)),
    "bitsandbytes": ("bitsandbytes", ("bitsandbytes", "accelerate")),
    "compressed-tensors": ("compressed-tensors", ("compressed_tensors", "accelerate")),
    "gguf": ("gguf", ("gguf", "accelerate")),
}
"""Quantization method to the extra that brings its loader, and the packages in it."""

OTHER_CLASSES = ("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForMultipleChoice")
"""Endings of classes that are taken from a config's `architectures`; all others are loaded as causal language models.
"""


def load_module(
    source: Source,
    dtype: torch.dtype | str,
    place: torch.device,
    *,
    content: GGUFContent | None = None,
    find_reference: Callable[[], Source] | None = None,
    device_map: DeviceMap | None = None,
) -> nn.Module:
    """Loads a model's weights in the types that its files hold them in, or unquantized ones in `dtype`.

    Args:
        source: its files.
        dtype: of all weights that are not quantized; `auto` for as they were saved.
        place: the device it goes to.
        content: what its GGUF file says of itself.
        find_reference: finds where the configuration comes from if a GGUF file has none.
        device_map: where the weights of a plain model lie, if not all on one device.

    Returns:
        The model in evaluation mode.

    Raises:
        ConfigurationError: the weights cannot lie where they are asked to.
        ModelError: a loader is missing, or the files do not hold exactly the model that they describe.
    """
    method = "gguf" if source.gguf else source.quantization.get("quant_method")
    _require_loader(source, str(method or ""))
    options: dict[str, Any] = {"dtype": dtype}
    if content is not None:
        options = _gguf_options(source, content, dtype, find_reference)
    elif method and place.type != "cpu":
        options["device_map"] = {"": str(place)}  # some quantized models cannot be moved once they are loaded
    with ExitStack() as stack:
        if method:
            stack.enter_context(quiet_quantizers())
        _require_size(source, options.get("config"))
        if device_map:
            options |= device_map_options(device_map, partial(_empty, source, dtype), place)
        try:
            module, info = _from_pretrained(source, options, str(method or ""))
        except ModelError:
            removed_with(None, options)
            raise
        removed_with(module, options)
        require_transforms(source, module)
        _require_all_keys(source, info)
        if content is not None:
            _require_same_size(source, module, content)
    module.eval()
    return module if "device_map" in options else module.to(place)


def _empty(source: Source, dtype: torch.dtype | str) -> nn.Module:
    """The model without its weights."""
    config, family = _config_in(source.directory), _class_for(source)
    make = family.from_config if hasattr(family, "from_config") else family._from_config
    with quiet(), torch.device("meta"):
        module: nn.Module = make(config, dtype=(config.dtype or torch.float32) if dtype == "auto" else dtype)
    return module


def _require_loader(source: Source, method: str) -> None:
    """Imports what the method needs, outside of blocks that silence it, so that they restore what its import set."""
    extra, packages = EXTRAS.get(method, ("", ()))
    if any(find_spec(package) is None for package in packages):
        raise ModelError(extra_needed(str(source), extra))
    with quiet_import(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for package in packages:
                import_module(package)
        except Exception as error:  # libraries with kernels raise their own
            raise ModelError(f"{source} needs {extra}, which fails here: {first_lines(error)}") from error


def _gguf_options(
    source: Source, content: GGUFContent, dtype: torch.dtype | str, find_reference: Callable[[], Source] | None
) -> dict[str, Any]:
    """Never `auto`, which would be the file's float type for some architectures and float32 for others."""
    import transformers

    options: dict[str, Any] = {"gguf_file": source.gguf, "dtype": torch.float32 if dtype == "auto" else dtype}
    unpacked = getattr(transformers, "GgufConfig", None)
    if unpacked is not None:  # newer releases would otherwise ask the hub for kernels where they can
        options["quantization_config"] = unpacked(dequantize=True)
    options["config"] = _gguf_config(source, content, find_reference)
    return options


def _gguf_config(source: Source, content: GGUFContent, find_reference: Callable[[], Source] | None) -> Any:
    """The one beside the file, or what the file says of itself, or the reference's."""
    if (source.directory / CONFIG).is_file():
        return _config_in(source.directory)
    if content.has_config and not content.has_rope_factors:
        config = _config_in(source.directory, gguf_file=source.gguf)
        if content.fits(config):
            return config
    if find_reference is not None:
        return _config_in(find_reference().directory)
    raise ModelError(
        f"{source} does not tell transformers all of its model's configuration; put the model's config.json beside it, "
        "or name the reference."
    )


def _config_in(directory: Path, **options: Any) -> Any:
    from transformers import AutoConfig

    try:
        with quiet():
            return AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False, **options)
    except Exception as error:  # transformers and json each raise their own
        raise ModelError(f"the configuration in {directory} cannot be used: {first_lines(error)}") from error


def _from_pretrained(source: Source, options: dict[str, Any], method: str) -> tuple[nn.Module, dict[str, Any]]:
    try:
        with quiet():
            module, info = _class_for(source).from_pretrained(
                source.directory,
                attn_implementation=ATTENTION,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused, by name
                **options,
            )
    except ImportError as error:
        raise ModelError(f"{source} ({method}) needs a package that is not installed: {first_lines(error)}") from error
    except Exception as error:  # transformers, safetensors and json each raise their own
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise ModelError(
                f"{source}: the offload folder {options.get('offload_folder', '')} cannot hold its weights: "
                f"{first_lines(error)}. Free space there, or give another with --circuit-offload."
            ) from error
        raise ModelError(f"{source} cannot be loaded: {first_lines(error)}") from error
    return module, info


@without_collecting()  # here the model's class is imported, and what a model's class imports
def _require_size(source: Source, config: Any) -> None:
    """Before anything is allocated: the model that is asked for is not far larger than its files."""
    if config is None:
        try:
            config = _config_in(source.directory)
        except ModelError:
            return  # of which the loader tells in its own way
    files = [source.directory / source.gguf] if source.gguf else weight_files(source.directory)
    with quiet():
        require_size(config, _class_for(source), sum(file.stat().st_size for file in files), str(source))


def _class_for(source: Source) -> Any:
    """The class that the model was saved from where that is no causal language model, such as BERT's."""
    import transformers

    architectures = source.config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    if isinstance(name, str) and name.endswith(OTHER_CLASSES):
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    return transformers.AutoModelForCausalLM


def _require_all_keys(source: Source, info: dict[str, Any]) -> None:
    wrong = {
        kind: keys
        for kind, keys in info.items()
        if keys and kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
    }
    if wrong or info.get("error_msgs"):
        listing = "; ".join(
            f"{kind.replace('_', ' ')}: {listed(sorted(map(_named, keys)), 5)}" for kind, keys in wrong.items()
        )
        what = "the configuration" if source.gguf else "its config.json"
        raise ModelError(f"{source} does not fit {what}: {listing or info['error_msgs']}")


def _require_same_size(source: Source, module: nn.Module, content: GGUFContent) -> None:
    """Transformers drops tensors of a GGUF file that it has no place for, and tells nobody."""
    held = sum(parameter.numel() for parameter in module.parameters())
    if held != content.parameters:
        raise ModelError(
            f"{source} does not fit the configuration: its tensors hold {content.parameters} numbers, and the model "
            f"{held}, so some of them were dropped or read twice."
        )


def first_pass(source: Source, module: nn.Module) -> tuple[str, ...]:
    """Runs a quantized model once: some formats are unpacked or repacked by their first pass.

    Returns:
        What a reader of the report must know of the kernels.

    Raises:
        ModelError: the model does not run here.
    """
    config = getattr(module, "config", None)
    vocabulary = getattr(config, "vocab_size", None) or 1
    device = next(module.parameters()).device
    with quiet_quantizers(), quiet():
        fours = {path: part for path, part in module.named_modules() if type(part).__name__ == "Linear4bit"}
        notes = settle(fours)
        try:
            with torch.no_grad():
                module(torch.arange(8, device=device)[None] % vocabulary)
        except Exception as error:  # every kernel raises its own
            raise ModelError(f"{source} was loaded, but does not run here: {first_lines(error)}") from error
    return tuple(notes)


def _named(key: Any) -> str:
    """A key, or a mismatched one with the shape that the file holds and the one that the config asks for."""
    if isinstance(key, str):
        return key
    name, held, asked = key
    return f"{name} ({list(held)} instead of {list(asked)})"
