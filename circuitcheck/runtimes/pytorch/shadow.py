"""Running a module with another forward, for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def shadowed(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """`module` runs `forward` in place of its own for as long as the block runs; its hooks fire as ever.

    An attribute of the instance, because hooks hang on the call and not on `forward`, and because the class stays as
    it is for every other instance.
    """
    attributes = vars(module)
    had, before = "forward" in attributes, attributes.get("forward")
    try:
        attributes["forward"] = forward
        yield
    finally:
        if had:
            attributes["forward"] = before
        else:
            attributes.pop("forward", None)


@contextmanager
def answering(module: nn.Module, recorded: Tensor, sets: int) -> Iterator[None]:
    """`module` answers a call with one row from the record, for as long as the block runs.

    Where `sets` different outputs of the attention are under way, what comes in one row cannot depend on any of them,
    so it is what it was in the clean pass, and so is the answer.

    Args:
        module: the MLP.
        recorded: what it put out in the clean pass, `[1, ...]`, after its own hooks.
        sets: rows of what depends on the attention; a call with as many is computed.
    """
    own = module.forward
    known = False

    def forward(*arguments: Any, **keywords: Any) -> Any:
        nonlocal known
        known = sets > 1 and bool(arguments) and isinstance(arguments[0], Tensor) and len(arguments[0]) == 1
        return recorded if known else own(*arguments, **keywords)

    # The module's own hooks have changed the recorded output once already; this hook runs after them.
    handle = module.register_forward_hook(lambda *_: recorded if known else None)
    try:
        with shadowed(module, forward):
            yield
    finally:
        handle.remove()
