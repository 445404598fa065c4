"""Products of half-precision matrices by float32 kernels, on a CPU that has none of its own for their type.

Such a CPU falls back on a loop that sums in float32 and rounds the sum once, and takes several times as long as the
float32 kernels beside it. A product of two half-precision numbers is exact in float32, so those make the same sums in
another order, as the kernels of any two devices do. Weights, inputs and results stay in half precision, rounded where
the release rounds them; everything that is no product runs as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from circuitcheck.runtimes.pytorch.batching import difference, probe_rows, rounding
from circuitcheck.runtimes.pytorch.forward import chunk_size, last_logits
from circuitcheck.runtimes.pytorch.torch_model import TorchModel

Model = TypeVar("Model", bound=TorchModel)

HALVES = {torch.float16: "_is_mkldnn_fp16_supported", torch.bfloat16: "_is_mkldnn_bf16_supported"}
"""Half-precision type to what tells whether this CPU has kernels for its products."""

PRODUCTS = frozenset(
    getattr(holder, name)
    for holder in (torch, Tensor)
    for name in ("matmul", "mm", "bmm", "addmm", "baddbmm", "__matmul__")
    if hasattr(holder, name)
)
"""Functions that return one product, or its sum with a matrix, each rounded once."""

NOTE = (
    "This CPU has no kernels for products of {types}, so float32 ones make them: weights, inputs and results are "
    "{types} as released, and only the order differs in which products are summed."
)


class WideProducts(TorchFunctionMode):
    """Makes products of plain matrices of some types in float32, and rounds each result to its type.

    Args:
        types: of the matrices.
    """

    def __init__(self, types: Iterable[torch.dtype]) -> None:
        super().__init__()
        self._types = frozenset(types)

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        """Runs `function`, in float32 where it is a product of what this is for."""
        keywords = keywords or {}
        # Asked first: thousands of other functions run for each product that is meant.
        if function is not linear and function not in PRODUCTS:
            return function(*arguments, **keywords)
        tensors = [value for value in (*arguments, *keywords.values()) if isinstance(value, Tensor)]
        if "out" in keywords or not self._are_meant(tensors):
            return function(*arguments, **keywords)
        if function is linear:
            return _linear(*arguments, **keywords)
        product = function(*map(_widened, arguments), **{name: _widened(value) for name, value in keywords.items()})
        return product.to(tensors[0].dtype)

    def _are_meant(self, tensors: Sequence[Tensor]) -> bool:
        """Whether all are plain ones of one of the types; a quantized weight has kernels of its own."""
        return tensors[0].dtype in self._types and all(
            type(one) in (Tensor, nn.Parameter) and one.dtype == tensors[0].dtype and one.device.type == "cpu"
            for one in tensors
        )


def with_wide_products(model: Model, ids: Tensor) -> Model:
    """The same model, made to multiply by float32 kernels if it needs them, and a note that says so.

    It stays as it is where its logits would then differ by more than rounding explains. Two passes over three prompts.

    Args:
        model: a candidate, in evaluation mode.
        ids: token ids of prompts of one length, `[batch, seq]`, on the model's device.
    """
    types = slow_types(model.module)
    if not types or model.wide:
        return model
    rows = probe_rows(ids)
    with torch.no_grad():
        own = last_logits(model, rows)
        with WideProducts(types):
            wide = last_logits(model, rows)
    if not difference(own, wide) <= rounding(model):
        return model
    named = " and ".join(str(kind).removeprefix("torch.") for kind in types)
    return replace(model, wide=types, notes=(*model.notes, NOTE.format(types=named)))


def slow_types(module: nn.Module) -> tuple[torch.dtype, ...]:
    """The half-precision types of a model's parameters whose products this CPU has no kernels for."""
    held = {parameter.dtype for parameter in module.parameters() if parameter.device.type == "cpu"}
    return tuple(kind for kind in HALVES if kind in held and not has_kernels(kind))


def has_kernels(kind: torch.dtype) -> bool:
    """Whether this CPU has kernels of its own for products of a half-precision type."""
    ask = getattr(torch.ops.mkldnn, HALVES[kind], None)  # not in builds without oneDNN
    return bool(torch.backends.mkldnn.enabled) and ask is not None and bool(ask())


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear`, part by part, so that no float32 copy of a whole unembedding is made."""
    wide, size = input.float(), chunk_size(weight)
    parts = [
        linear(wide, weight[part].float(), None if bias is None else bias[part].float())
        for part in (slice(start, start + size) for start in range(0, len(weight), size))
    ]
    return torch.cat([part.to(input.dtype) for part in parts], -1) if len(parts) > 1 else parts[0].to(input.dtype)


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value
