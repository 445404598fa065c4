"""Hugging Face directories, sound and spoilt."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import tiny_models
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

WEIGHTS = "model.safetensors"


def save_tiny(directory: Path, name: str = "gpt_neox", *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    """A random model as `save_pretrained` writes it, without a tokenizer."""
    tiny_models.tiny_module(name, seed).to(dtype).save_pretrained(directory)
    return directory


def save_word_tokenizer(directory: Path) -> None:
    """A tokenizer of the words w2 ... w49, each its own number."""
    words = {"<unk>": 0, "<eos>": 1} | {f"w{number}": number for number in range(2, tiny_models.VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "eos_token": "<eos>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def change_config(directory: Path, **settings: Any) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def change_weights(directory: Path, change: Any) -> None:
    """Calls `change` on the dict of tensors, and writes what it leaves."""
    tensors = load_file(directory / WEIGHTS)
    change(tensors)
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})


class CreatesAFile:
    """Unpickling this creates a file: the trap that must not go off."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def plant_pickle(directory: Path, trap: Path, name: str = "pytorch_model.bin") -> None:
    (directory / name).write_bytes(pickle.dumps(CreatesAFile(trap)))
