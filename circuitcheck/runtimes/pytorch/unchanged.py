"""Check 4: after every measurement the model is what it was before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from circuitcheck.core.errors import ModelChangedError
from circuitcheck.runtimes.pytorch.compiled import uncompiled
from circuitcheck.runtimes.pytorch.default_type import float32_by_default
from circuitcheck.runtimes.pytorch.torch_model import TorchModel
from circuitcheck.runtimes.pytorch.wide_products import WideProducts

SAMPLED_BYTES = 4096
"""How many bytes of a tensor are looked at before and after a measurement."""


@contextmanager
def unchanged(model: TorchModel) -> Iterator[None]:
    """Evaluation mode without compiled code for as long as the block runs; afterwards the model is as it was.

    Products of half-precision matrices are made as `model.wide` says.

    Raises:
        ModelChangedError: a hook, a parameter or a training flag differs after the block.
    """
    wide = WideProducts(model.wide) if model.wide else nullcontext()
    with float32_by_default(), uncompiled(model.module), wide:
        flags = {part: part.training for part in model.module.modules()}
        model.module.eval()
        before = _state(model.module)
        try:
            yield
            after = _state(model.module)
        finally:
            for part, flag in flags.items():
                part.training = flag
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    if changed:
        raise ModelChangedError(
            f"{model.name}: measuring left these other than it found them: {', '.join(changed[:10])}"
        )


def _state(module: nn.Module) -> dict[str, Any]:
    """What a measurement must leave alone.

    Tensor versions count writes, so contents need not be copied; writes through `.data` are not counted, and a sample
    of the contents shows those that change a tensor as a whole.
    """
    state: dict[str, Any] = {}
    for path, part in module.named_modules():
        hooks = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
        state[f"{path or type(module).__name__} hooks"] = tuple(tuple(sorted(kind)) for kind in hooks)
        state[f"{path or type(module).__name__} attributes"] = "forward" in vars(part)
        state[f"{path or type(module).__name__} training flag"] = part.training
    for name, tensor in [*module.named_parameters(remove_duplicate=False), *module.named_buffers()]:
        if tensor.is_meta:  # its file holds it, and every pass puts another empty tensor in its place
            state[f"{name} (tensor)"] = tensor.shape
            continue
        version = None if tensor.is_inference() else tensor._version
        has_gradient = tensor.grad is not None
        state[f"{name} (tensor)"] = (id(tensor), tensor.data_ptr(), version, tensor.requires_grad, has_gradient)
        state[f"{name} (contents)"] = _sample(tensor)
    return state


def _sample(tensor: Tensor) -> bytes:
    """Some bytes of a plain tensor's storage; none of tensors that hide what they store."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided or tensor.is_meta:
        return b""
    stored = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
    # An odd step, so that it meets every byte of an element in turn.
    step = (len(stored) // SAMPLED_BYTES) | 1
    return stored[::step].cpu().numpy().tobytes()
