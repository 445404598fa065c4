"""SHA-256 fingerprints of weights and tokenizers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

NOT_THE_MODEL = ("_name_or_path", "transformers_version", "use_cache", "dtype", "torch_dtype")
"""Keys of a config.json that change nothing that is measured."""


def weight_files(directory: Path) -> list[Path]:
    """All safetensors files of a Hugging Face directory, in order of their names."""
    return sorted(file for file in directory.glob("*.safetensors") if file.is_file())


def fingerprint_directory(directory: Path) -> str:
    """SHA-256 over a model's weight files, whose names do not count, and the configuration that they run under.

    The configuration counts, because the same weights with another rotary base, say, are another model.
    """
    return _fingerprint_files(weight_files(directory), directory / "config.json")


def fingerprint_file(file: Path) -> str:
    """SHA-256 of a model that is one file and, where one lies beside it, of the configuration that it runs under."""
    config = file.parent / "config.json"
    if config.is_file():
        return _fingerprint_files([file], config)
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fingerprint_files(files: Iterable[Path], config: Path) -> str:
    total = hashlib.sha256(_canonical_config(json.loads(config.read_text(encoding="utf-8"))))
    for file in files:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def _canonical_config(config: dict[str, Any]) -> bytes:
    return json.dumps({key: config[key] for key in config if key not in NOT_THE_MODEL}, sort_keys=True).encode()


def fingerprint_module(module: nn.Module) -> str:
    """SHA-256 over configuration, names, types, shapes and bytes of all that a model in memory would save.

    A 4-bit model of bitsandbytes that has repacked its weights computes with rounded scales from then on, and has
    another fingerprint than before.
    """
    config = getattr(module, "config", None)
    total = hashlib.sha256(b"" if config is None else _canonical_config(config.to_diff_dict()))
    saved = {
        f"{path}.{name}" if path else name: value
        for path, part in module.named_modules(remove_duplicate=False)
        for name, value in _saved_by(part).items()
    }
    for key in sorted(saved):
        for name, tensor in _plain_tensors(key, saved[key]):
            total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _saved_by(part: nn.Module) -> dict[str, Any]:
    """A module's own parameters, persistent buffers, and what else its class saves, by name.

    The model's `state_dict()` would hold the same, but for it bitsandbytes' 4-bit modules unpack weights that they have
    repacked, in place, and mix up their scales (0.50). Those are read off the weight instead.
    """
    saved: dict[str, Any] = {}
    scales = getattr(getattr(part, "weight", None), "quant_state", None)
    if scales is None:
        part._save_to_state_dict(saved, "", keep_vars=True)
        return saved
    nn.Module._save_to_state_dict(part, saved, "", keep_vars=True)
    return saved | {f"weight.{name}": value for name, value in scales.as_dict(packed=True).items()}


def _plain_tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """A tensor, or those that a quantized one or a tuple is made of; nothing of what is no tensor, such as types."""
    if isinstance(value, tuple):  # weight and bias of PyTorch's own quantized modules
        for number, part in enumerate(value):
            yield from _plain_tensors(f"{name}.{number}", part)
    elif is_traceable_wrapper_subclass(value):
        for part in value.__tensor_flatten__()[0]:
            yield from _plain_tensors(f"{name}.{part}", getattr(value, part))
    elif isinstance(value, Tensor):
        yield name, value.dequantize() if value.is_quantized else value


def fingerprint_tokenizer(tokenizer: Any) -> str:
    """SHA-256 of what decides how a text is split; 'none' where there is no tokenizer."""
    if tokenizer is None:
        return "none"
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content = json.dumps(json.loads(backend.to_str()), sort_keys=True)
    else:
        content = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(content.encode()).hexdigest()
