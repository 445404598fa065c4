"""References in PyTorch beside releases of theirs in GGUF files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf_writer
import tiny_circuits
import tiny_models
import torch

from circuitcheck import load_candidate, load_model
from circuitcheck.core.prompts import Task


@dataclass(frozen=True)
class Pair:
    """A reference in PyTorch, and where its releases go.

    Attributes:
        directory: the reference's.
        reference: loaded.
        module: that it was saved from.
        task: that it solves.
    """

    directory: Path
    reference: Any
    module: Any
    task: Task

    def write(self, kind: str, name: str = "", **options: Any) -> Path:
        """A release whose matrices have some type."""
        file = self.directory.parent / f"{name or kind}.gguf"
        return gguf_writer.write_gguf(self.module, file, kind, tokens=gguf_writer.made_up_words(), **options)

    def load(self, file: Path, variant: str = "kv=f32") -> Any:
        """A release in llama.cpp."""
        source = f"{file}@{variant}" if variant else str(file)
        return load_candidate(source, "llamacpp", reference=str(self.directory))


def make_pair(root: Path, name: str, *, emphasis: float = 1.0, prompts: int = 12, **settings: Any) -> Pair:
    """A tiny random model of some architecture, saved; its embedding is made larger by a factor."""
    module = tiny_models.tiny_module(name, **settings)
    with torch.no_grad():
        module.get_input_embeddings().weight.mul_(emphasis)
    module.save_pretrained(root / "reference")
    reference = load_model(root / "reference")
    return Pair(root / "reference", reference, module, tiny_circuits.solvable_task(reference, prompts))
