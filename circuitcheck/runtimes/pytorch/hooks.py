"""Plain PyTorch hooks that are gone after their block, also when the forward pass raises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def pre_hook(module: nn.Module, hook: Callable[..., Any], **options: Any) -> Iterator[None]:
    """A forward pre-hook on `module`, for as long as the block runs."""
    handle = module.register_forward_pre_hook(hook, **options)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def post_hook(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    """A forward hook on `module`, for as long as the block runs."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def record_input(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what `module` is called with, one tensor a call, without copying (for tensors nobody writes to)."""
    inputs: list[Tensor] = []

    def read(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        inputs.append(arguments[0])

    with pre_hook(module, read):
        yield inputs
