"""Reading and writing values while llama.cpp computes: the `cb_eval` of a context.

Its scheduler asks at every node of a graph whether its value is wanted, computes up to the next one that is, and calls
again. What ctypes swallows is kept: an exception inside of the callback would otherwise only be printed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.errors import ModelError, SiteError
from circuitcheck.runtimes.llamacpp.binding import Binding, GgmlTensor, require_layout

F32 = 0
"""ggml's number of the type."""

Visit = Callable[[NDArray[np.float32]], bool]
"""Sees a value `[tokens, width]`, which it may change; says whether it did."""


@dataclass(frozen=True)
class Node:
    """One node of a graph, as far as ports are found by it.

    Attributes:
        address: of the tensor.
        name: that llama.cpp gave it.
        operation: in ggml's words.
        sources: addresses of what it is made of.
        first_name: name of its first source; empty where there is none.
    """

    address: int
    name: str
    operation: str
    sources: tuple[int, ...]
    first_name: str


@dataclass(frozen=True)
class Place:
    """Where a value can be seen in a graph of one shape.

    Attributes:
        node: number of the node that makes it.
        name: of that node.
        reader: number of the node that reads it, by which it is known again; None where nothing is asked of that.
    """

    node: int
    name: str
    reader: int | None = None


class EvalHook:
    """What a context calls; does nothing until it is told to.

    Attributes:
        callback: for the context's parameters; this object must live as long as the context.
    """

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self._error: BaseException | None = None
        self._node = 0
        self._found: list[Node] | None = None
        self._visits: dict[int, Visit] = {}
        self._checks: dict[int, Place] = {}
        self._seen: dict[int, int] = {}
        self.callback = binding.llama.ggml_backend_sched_eval_callback(self._called)

    def trace(self, run: Callable[[], object]) -> list[Node]:
        """All nodes of the graph that `run` computes, in order.

        Raises:
            ModelError: the library's tensors are laid out in a way that is not known.
        """
        self._start()
        found: list[Node] = []
        self._found = found
        try:
            run()
        finally:
            self._found = None
        self._finish(run_to_end=True)
        return found

    def visit(self, places: Mapping[Place, Visit], run: Callable[[], Any]) -> Any:
        """What `run` returns, while each visitor sees its value once.

        Raises:
            SiteError: the graph is not the one in which the places were found.
            ModelError: a value is no plain float32 matrix.
        """
        self._start()
        self._visits = {place.node: visit for place, visit in places.items()}
        self._checks = {place.reader: place for place in places if place.reader is not None}
        expected = len(places) + len(self._checks)
        self._seen = {}
        try:
            found = run()
        finally:
            self._visits, self._checks = {}, {}
        self._finish(run_to_end=len(self._seen) == expected)
        return found

    def _start(self) -> None:
        self._node, self._error = 0, None

    def _finish(self, *, run_to_end: bool) -> None:
        if self._error is not None:
            raise self._error
        if not run_to_end:
            raise SiteError("llama.cpp computed another graph than the one in which its values were found.")

    def _called(self, address: int, ask: bool, _: Any) -> bool:
        # Whatever is returned for a value that was wanted, the pass goes on: False would end it without an error.
        try:
            return self._asked(address) if ask else self._computed(address)
        except BaseException as error:  # noqa: BLE001 - raised again when the pass is over
            self._error = self._error or error
            return not ask

    def _asked(self, address: int) -> bool:
        number = self._node
        self._node += 1
        if self._found is not None:
            self._found.append(self._described(address))
        place = self._checks.get(number)
        if place is not None:
            if self._seen.get(place.node) not in list(GgmlTensor.from_address(address).src):
                raise SiteError(f"{place.name} is not what its reader reads: the graph is another than before.")
            self._seen[~number] = address
        return number in self._visits

    def _described(self, address: int) -> Node:
        require_layout(self._binding, address)
        tensor = GgmlTensor.from_address(address)
        sources = tuple(source for source in tensor.src if source)
        first = GgmlTensor.from_address(sources[0]).name.decode(errors="replace") if sources else ""
        operation = self._binding.ggml.ggml_op_name(tensor.op).decode()
        return Node(address, tensor.name.decode(errors="replace"), operation, sources, first)

    def _computed(self, address: int) -> bool:
        number = self._node - 1
        self._seen[number] = address
        tensor, ggml = GgmlTensor.from_address(address), self._binding.ggml
        width = tensor.ne[0]
        tokens = int(np.prod(tensor.ne[1:]))
        size = 4 * width * tokens
        if tensor.type != F32 or ggml.ggml_nbytes(address) != size:
            raise ModelError(f"{tensor.name.decode(errors='replace')} is no plain matrix of float32.")
        value = np.empty((tokens, width), np.float32)
        pointer = value.ctypes.data_as(ctypes.c_void_p)
        ggml.ggml_backend_tensor_get(address, pointer, 0, size)
        if self._visits[number](value):
            ggml.ggml_backend_tensor_set(address, pointer, 0, size)
        return True
