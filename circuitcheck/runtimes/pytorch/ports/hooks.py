"""Hooks on `z[l,h]`: each head's slice of the input of its layer's attention output projection.

Every context manager removes its hooks on the way out, also when the forward pass raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.ports.structure import LayerSite

Edit = Callable[[Tensor], Tensor]
"""Takes `z` of one layer, `[batch, seq, n_heads, d_head]`, and returns what stands in its place (a new tensor)."""


@contextmanager
def pre_hook(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    """A forward pre-hook on `module`, for as long as the block runs."""
    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def record_z(model: HookedModel) -> Iterator[dict[int, Tensor]]:
    """Collects a copy of `z` from every layer that runs inside the block.

    Yields:
        A dict, filled by the forward pass: layer to `[batch, seq, n_heads, d_head]`, in the model's own dtype.
    """
    recorded: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for site in model.structure.layers:
            stack.enter_context(pre_hook(model.module.get_submodule(site.projection), _reader(site, recorded)))
        yield recorded


@contextmanager
def edit_z(model: HookedModel, edits: Mapping[int, Edit]) -> Iterator[None]:
    """Replaces `z` in the given layers of every forward pass inside the block.

    Args:
        model: the model to hook.
        edits: layer to a function of that layer's `z`.
    """
    with ExitStack() as stack:
        for site in model.structure.layers:
            if site.layer in edits:
                hook = _writer(site, edits[site.layer])
                stack.enter_context(pre_hook(model.module.get_submodule(site.projection), hook))
        yield


@contextmanager
def record_input(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what `module` is called with, one tensor a call, without copying (for tensors nobody writes to)."""
    inputs: list[Tensor] = []

    def read(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        inputs.append(arguments[0])

    with pre_hook(module, read):
        yield inputs


def split_heads(site: LayerSite, z: Tensor) -> Tensor:
    """`[..., n_heads * d_head]` to `[..., n_heads, d_head]`."""
    return z.reshape(*z.shape[:-1], site.n_heads, site.d_head)


def _reader(site: LayerSite, recorded: dict[int, Tensor]) -> Callable[..., None]:
    def read(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        # A clone: the projection's input is live storage that the layer may write to again.
        recorded[site.layer] = split_heads(site, arguments[0].detach().clone())

    return read


def _writer(site: LayerSite, edit: Edit) -> Callable[..., tuple[Any, ...]]:
    def write(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        z = split_heads(site, arguments[0])
        return (edit(z).to(z.dtype).flatten(-2), *arguments[1:])

    return write


def gradient_probe(z: Tensor) -> tuple[Tensor, Tensor]:
    """A zero that is added to `z`, so that the metric can be differentiated by it whether or not weights are frozen.

    Returns:
        The zero tensor (ask autograd for its gradient) and `z` plus it, which has the same values as `z`.
    """
    probe = torch.zeros_like(z, requires_grad=True)
    return probe, z + probe
