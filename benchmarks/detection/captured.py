"""What modules give while a model runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def captured(module: nn.Module, paths: Sequence[str]) -> Iterator[list[Any]]:
    """Outputs of the modules at these paths, in order of execution, for as long as the block runs."""
    outputs: list[Any] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        outputs.append(output)

    handles = [module.get_submodule(path).register_forward_hook(keep) for path in paths]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
