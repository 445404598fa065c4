"""Weights that lie in files, or in another memory, until the module that they belong to runs: accelerate's hooks.

Nothing here imports accelerate: its hooks are found on the modules that it has dispatched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


def offloading(module: nn.Module) -> Iterator[Any]:
    """The hooks that fetch a module's own weights before it runs and put them away afterwards."""
    hook = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        if getattr(one, "offload", False):
            yield one


def is_offloaded(module: nn.Module) -> bool:
    """Whether any weights of a model are fetched when they are needed."""
    return any(True for part in module.modules() for _ in offloading(part))


def runs_own_forward(module: nn.Module) -> bool:
    """Whether a module runs its class's forward, but for fetching its weights first."""
    own = vars(module).get("_old_forward") if "_hf_hook" in vars(module) else vars(module).get("forward")
    return own is None or getattr(own, "__func__", None) is type(module).forward


def execution_device(module: nn.Module) -> torch.device:
    """Where a model's first module runs, wherever its weights lie."""
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            hook = next(offloading(part), None)
            return parameter.device if hook is None else torch.device(hook.execution_device)
    return torch.device("cpu")


def stored(module: nn.Module, name: str) -> Any:
    """A module's own tensor of that name, fetched where it lies elsewhere; what else it calls so; None for nothing."""
    value = getattr(module, name, None)
    if isinstance(value, Tensor) and value.is_meta:
        for hook in offloading(module):
            return hook.weights_map[name].to(hook.execution_device)
    return value


@contextmanager
def resident(module: nn.Module) -> Iterator[None]:
    """Keeps the weights of a module and its parts at hand for as long as the block runs, instead of for each call."""
    held = []
    try:
        for part in module.modules():
            for hook in offloading(part):
                held.append((part, hook))
                hook.pre_forward(part)
                hook.offload = False
        yield
    finally:
        for part, hook in held:
            hook.offload = True
            hook.post_forward(part, None)


def resident_bytes(module: nn.Module) -> int:
    """Memory of the weights that are always at hand."""
    return sum(_bytes(tensor) for tensor in _tensors(module) if not tensor.is_meta)


def fetched_bytes(parts: Iterable[nn.Module]) -> int:
    """Memory of the weights that are fetched at once, where only one of some parts is at a time."""
    return max((sum(_bytes(tensor) for tensor in _tensors(part) if tensor.is_meta) for part in parts), default=0)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
