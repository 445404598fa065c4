"""The cut: the graph as it was shipped, with a place behind each port where other values can be put."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto

from circuitcheck.core.units import Group
from circuitcheck.runtimes.onnx.graph import Graph

PREFIX = "circuitcheck/"
"""How everything is called that is added; a graph that has such names already is refused."""


@dataclass(frozen=True)
class Port:
    """Where one group of units is read and written.

    Attributes:
        group: the units.
        tensor: their values, of whatever shape, as long as it is `[batch, seq, count * width]` in memory.
        kind: the type of that tensor, such as `float16`; of integers, `uint8` or `int8`.
        scale: constant that the integers are multiplied by; None for floats.
        zero: constant that is taken from them first, if any.
        name: how messages call it.
    """

    group: Group
    tensor: str
    kind: str
    scale: str | None
    zero: str | None
    name: str

    def part(self, what: str) -> str:
        """Name of a tensor that is added for it."""
        return f"{PREFIX}{self.group.name}/{what}"

    @property
    def read(self) -> str:
        """The output that holds its values as floats."""
        return self.part("read") if self.scale else self.tensor


def cut(graph: Graph, ports: Sequence[Port], ids: str, outputs: Sequence[str]) -> Any:
    """The model with `Reshape -> Where(mask, value, z) -> Reshape` behind every port.

    Args:
        graph: as it was shipped; it is copied.
        ports: what can be read and written.
        ids: name of the input of token ids, `[batch, seq]`.
        outputs: tensors that are outputs, too.

    Returns:
        A model with two more inputs a port, `mask` (bool) and `value` (float32), of any shape that broadcasts to
        `[batch, seq, count, width]`; and more outputs.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    by_tensor = {port.tensor: port for port in ports}
    nodes = []
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name in by_tensor:
                node.input[place] = by_tensor[name].part("edited")
        nodes.append(node)
        # Right behind what makes it, so that every node still stands behind what it reads.
        nodes.extend(added for name in node.output if name in by_tensor for added in _behind(by_tensor[name], ids))
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    wide = ["batch", "seq", "count", "width"]
    for port in ports:
        for what, kind in (("mask", TensorProto.BOOL), ("value", TensorProto.FLOAT)):
            sizes = [f"{port.part(what)}/{size}" for size in wide]
            model.graph.input.append(onnx.helper.make_tensor_value_info(port.part(what), kind, sizes))
    known = {output.name for output in model.graph.output}
    asked = [*(port.read for port in ports), *outputs]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(asked) if name not in known)
    return model


def _behind(port: Port, ids: str) -> list[Any]:
    """The nodes of one port. Integers are chosen among as such, so that what is not edited keeps every bit."""
    make, part = onnx.helper.make_node, port.part
    sizes = onnx.helper.make_tensor("sizes", TensorProto.INT64, [2], [port.group.count, port.group.width])
    number = [name for name in (port.scale, port.zero) if name]
    nodes = [
        make("Constant", [], [part("sizes")], value=sizes),
        make("Shape", [ids], [part("rows")]),
        make("Concat", [part("rows"), part("sizes")], [part("split")], axis=0),
        make("Shape", [port.tensor], [part("whole")]),
        make("Reshape", [port.tensor, part("split")], [part("units")]),
        make("Where", [part("mask"), part("put"), part("units")], [part("chosen")]),
        make("Reshape", [part("chosen"), part("whole")], [part("edited")]),
    ]
    if number:
        nodes.append(make("DequantizeLinear", [port.tensor, *number], [port.read]))
        nodes.append(make("QuantizeLinear", [part("value"), *number], [part("put")]))
    else:
        kind = TensorProto.DataType.Value({"float32": "FLOAT", "float64": "DOUBLE"}.get(port.kind, port.kind.upper()))
        nodes.append(make("Cast", [part("value")], [part("put")], to=kind))
    for node in nodes:
        node.name = part(node.op_type + "/" + node.output[0])
    return nodes
