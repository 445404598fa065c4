"""Running a module with another forward, for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


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
