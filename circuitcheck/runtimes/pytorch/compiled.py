"""Compiled models, measured as they are written: compiled code runs no hook that came after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn

NOTE = "{name} was compiled by torch.compile; it is measured uncompiled, because compiled code passes its hooks over."

CALL = "_compiled_call_impl"
"""Where `module.compile()` leaves the compiled call, in front of the module's own."""

ORIGINAL = "_torchdynamo_orig_callable"
"""Where a compiled function keeps the one that it was made from."""


def unwrapped(module: nn.Module) -> nn.Module:
    """What `torch.compile(module)` wraps; the module itself where it is no such wrapper."""
    inner = module._modules.get("_orig_mod")
    return module if inner is None else inner


def is_compiled(module: nn.Module) -> bool:
    """Whether it, or any part of it, is run by compiled code."""
    return unwrapped(module) is not module or any(True for part in module.modules() for _ in _put_back(part))


@contextmanager
def uncompiled(module: nn.Module) -> Iterator[None]:
    """Every part of a model runs its own code for as long as the block runs, and its compiled one afterwards."""
    undo = [step for part in list(module.modules()) for step in _put_back(part)]
    for forth, _ in undo:
        forth()
    try:
        yield
    finally:
        for _, back in undo:
            back()


def _put_back(part: nn.Module) -> Iterator[tuple[Callable[[], Any], Callable[[], Any]]]:
    """What sets each compiled piece of a module aside, and what brings it back."""
    attributes = vars(part)
    if attributes.get(CALL) is not None:
        yield partial(attributes.pop, CALL), partial(attributes.__setitem__, CALL, attributes[CALL])
    forward = attributes.get("forward")
    if hasattr(forward, ORIGINAL) and unwrapped(part) is part:
        yield _swap(attributes, "forward", getattr(forward, ORIGINAL))
    for name, child in part._modules.items():
        if child is not None and unwrapped(child) is not child and unwrapped(part) is part:
            yield _swap(part._modules, name, unwrapped(child))


def _swap(kept: dict[str, Any], name: str, other: object) -> tuple[Callable[[], Any], Callable[[], Any]]:
    return partial(kept.__setitem__, name, other), partial(kept.__setitem__, name, kept[name])
