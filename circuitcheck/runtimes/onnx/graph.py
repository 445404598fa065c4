"""A graph as it was shipped: who makes which tensor, who reads it, and what is constant."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from circuitcheck.core.errors import ModelError
from circuitcheck.runtimes.onnx.ort_session import Weights, make_session

CASTS = ("Cast", "CastLike", "Identity")
TO_INTEGERS = ("QuantizeLinear", "DynamicQuantizeLinear")
QUANTIZERS = (*TO_INTEGERS, "DequantizeLinear")
"""What changes how numbers are kept, and not what they say."""


class Graph:
    """Looks at a model; never changes it.

    Args:
        model: as parsed; local functions are taken to be inlined.
        weights: what it does not hold itself.
    """

    def __init__(self, model: Any, weights: Weights) -> None:
        self.model, self.weights = model, weights
        self.initializers: dict[str, Any] = {tensor.name: tensor for tensor in model.graph.initializer}
        self.producers: dict[str, Any] = {}
        self.consumers: dict[str, list[Any]] = {}
        for node in model.graph.node:
            for name in filter(None, node.output):
                self.producers[name] = node
            for name in dict.fromkeys(filter(None, node.input)):
                self.consumers.setdefault(name, []).append(node)
        self._values: dict[str, NDArray[Any]] = {}

    @cached_property
    def order(self) -> list[Any]:
        """All nodes, each behind what it reads; those of a cycle, and what follows from it, are left out."""
        waiting = {id(node): len({name for name in node.input if name in self.producers}) for node in self._nodes}
        ready = deque(node for node in self._nodes if not waiting[id(node)])
        ordered = []
        while ready:
            node = ready.popleft()
            ordered.append(node)
            for other in [other for name in filter(None, node.output) for other in self.consumers.get(name, ())]:
                waiting[id(other)] -= 1
                if not waiting[id(other)]:
                    ready.append(other)
        return ordered

    @property
    def _nodes(self) -> Any:
        return self.model.graph.node

    @cached_property
    def constants(self) -> frozenset[str]:
        """Tensors that follow from nothing but the file."""
        known = set(self.initializers)
        for node in self.order:
            if not has_subgraph(node) and all(name in known for name in filter(None, node.input)):
                known |= set(filter(None, node.output)) if not node.op_type.startswith("Random") else set()
        return frozenset(known)

    def value(self, name: str) -> NDArray[Any]:
        """The numbers of a constant tensor, in its own type; of what packs several in a byte, unpacked.

        Raises:
            ModelError: its data cannot be read.
        """
        if name in self.initializers:
            return self._stored(self.initializers[name])
        return self._computed(name)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Of a constant tensor, without reading it where that can be."""
        tensor = self.initializers.get(name)
        return tuple(tensor.dims) if tensor is not None else self.value(name).shape

    def source_of(self, name: str) -> str:
        """The initializer, or else the first constant, that a constant tensor is made of, back over its one way."""
        while (node := self.producers.get(name)) is not None and node.op_type in PASSING_WEIGHTS:
            name = node.input[0]
        return name

    def back_over(self, name: str, kinds: tuple[str, ...]) -> str:
        """The tensor in front of all nodes of some kinds that a tensor went through last."""
        seen = set()
        while (node := self.producers.get(name)) is not None and node.op_type in kinds and name not in seen:
            seen.add(name)
            name = node.input[0]
        return name

    def parts(self, node: Any) -> Iterator[tuple[str, bool]]:
        """The inputs of a node, and whether each is constant."""
        return ((name, name in self.constants) for name in node.input if name)

    def _stored(self, tensor: Any) -> NDArray[Any]:
        if tensor.name in self.weights.taken:
            return self.weights.taken[tensor.name]
        try:
            return np.asarray(onnx.numpy_helper.to_array(tensor, str(self.weights.directory)))
        except Exception as error:  # the package raises whatever it meets
            raise ModelError(f"tensor {tensor.name!r} cannot be read: {error}") from error

    def _computed(self, name: str) -> NDArray[Any]:
        if name not in self._values:
            needed, nodes, seen = [name], [], set[int]()
            while needed:
                node = self.producers.get(needed.pop())
                if node is not None and id(node) not in seen:
                    seen.add(id(node))
                    nodes.append(node)
                    needed.extend(filter(None, node.input))
            ordered = [node for node in self.order if id(node) in seen]
            read = {part for node in ordered for part in node.input}
            graph = onnx.helper.make_graph(
                ordered,
                "constant",
                [],
                [onnx.ValueInfoProto(name=name)],
                [tensor for key, tensor in self.initializers.items() if key in read],
            )
            part = onnx.helper.make_model(
                graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version
            )
            self._values[name] = make_session(part, self.weights, optimized=False).run(None, {})[0]
        return self._values[name]


PASSING_WEIGHTS = ("DequantizeLinear", "Transpose", "Reshape", *CASTS)


def has_subgraph(node: Any) -> bool:
    """Whether it is a branch or a loop."""
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """The value of a node's attribute."""
    for found in node.attribute:
        if found.name == name:
            return onnx.helper.get_attribute_value(found)
    return default
