"""Backward passes that keep what each layer was given, and run the layer once more for what it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from circuitcheck.runtimes.pytorch.shadow import shadowed
from circuitcheck.runtimes.pytorch.torch_model import TorchModel


@contextmanager
def checkpointed(model: TorchModel) -> Iterator[None]:
    """Forward and backward passes inside the block keep one layer's intermediate values at a time.

    A layer runs to its end when it is run once more: what puts its weights away afterwards has to run, too. Weights ask
    for no gradient meanwhile: what only theirs would need would be kept, and never be asked for.
    """
    with ExitStack() as stack:
        stack.enter_context(set_checkpoint_early_stop(False))
        stack.enter_context(_frozen(model))
        for site in model.structure.layers:
            layer = model.module.get_submodule(site.path)
            stack.enter_context(shadowed(layer, partial(_run, layer.forward)))
        yield


@contextmanager
def _frozen(model: TorchModel) -> Iterator[None]:
    # By module and name: another tensor stands in a parameter's place whenever its weights were fetched.
    parts = list(model.module.modules())
    asking = [(part, name) for part in parts for name, one in part.named_parameters(recurse=False) if one.requires_grad]
    try:
        for part, name in asking:
            part.get_parameter(name).requires_grad_(False)
        yield
    finally:
        for part, name in asking:
            part.get_parameter(name).requires_grad_(True)


def _run(forward: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **keywords)
