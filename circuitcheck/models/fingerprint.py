"""SHA-256 fingerprints of weights and tokenizers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn


def weight_files(directory: Path) -> list[Path]:
    """All safetensors files of a Hugging Face directory, in order of their names."""
    return sorted(directory.glob("*.safetensors"))


def fingerprint_files(files: list[Path]) -> str:
    """SHA-256 over the contents of weight files; their names do not count."""
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def fingerprint_module(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters and buffers of a model in memory."""
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


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
