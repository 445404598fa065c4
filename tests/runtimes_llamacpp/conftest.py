"""Tests of llama.cpp's runtime; skipped where its binding is not installed, which takes a compiler and minutes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf_writer
import pytest
import tiny_circuits
import tiny_models
from single_thread import one_thread

from circuitcheck import load_candidate, load_model
from circuitcheck.core.prompts import Task
from circuitcheck.runtimes.choose import KINDS

__all__ = ["one_thread"]

WIDTHS = {"hidden_size": 64, "intermediate_size": 128}
"""Rows of two blocks, so that quantized types are stored as they are."""


@dataclass(frozen=True)
class Pair:
    """A reference in PyTorch, and where its releases go."""

    directory: Path
    reference: Any
    module: Any
    task: Task

    def write(self, kind: str, name: str = "", **options: Any) -> Path:
        file = self.directory.parent / f"{name or kind}.gguf"
        return gguf_writer.write_gguf(self.module, file, kind, tokens=gguf_writer.made_up_words(), **options)

    def load(self, file: Path, variant: str = "kv=f32", **options: Any) -> Any:
        source = f"{file}@{variant}" if variant else str(file)
        return load_candidate(source, "llamacpp", reference=str(self.directory), **options)


@pytest.fixture(scope="session", autouse=True)
def binding() -> None:
    if not KINDS["llamacpp"].is_installed:
        pytest.skip('llama-cpp-python is not installed: pip install "circuitcheck[llamacpp]"')


def make_pair(root: Path, name: str, **settings: Any) -> Pair:
    module = tiny_models.tiny_module(name, **settings)
    module.save_pretrained(root / "reference")
    reference = load_model(root / "reference")
    return Pair(root / "reference", reference, module, tiny_circuits.solvable_task(reference, 12))


@pytest.fixture(scope="session")
def llama(binding: None, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two layers of four heads that share two keys and values."""
    return make_pair(tmp_path_factory.mktemp("llama"), "llama", **WIDTHS)
