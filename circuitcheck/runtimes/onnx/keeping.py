"""A reference's linear maps in the place of a graph's products, for a keep list."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from circuitcheck.core.errors import CandidateError
from circuitcheck.core.runtime import Replaceable
from circuitcheck.runtimes.onnx.graph import Graph
from circuitcheck.runtimes.onnx.network import Network, understand
from circuitcheck.runtimes.onnx.ort_session import Weights, read_by_nodes
from circuitcheck.runtimes.onnx.weights import FloatArray, Product, bias_of, dense, made_by, products, read_by, stored

SAMPLED = 4096
"""Numbers of two matrices that are held against one another, to find out which is made of which."""

RELATED = 0.9
"""A matrix is made of another where they are less than this apart, relative to the norm of it."""

SUFFIX = re.compile(r"_(quant|Q\d|Q\dG\d+|Bnb4)$")
"""What quantizers put behind the names of nodes; they are told those of the float graph."""


class WithMaps(Protocol):
    """A reference whose linear maps can be had."""

    @property
    def output_map(self) -> str | None:
        """Path of its unembedding."""

    def float_maps(self) -> list[dict[str, FloatArray]]:
        """For each layer, path to `[in, out]` of its linear maps."""


def replaceable(network: Network, reference: WithMaps, name: str) -> tuple[Replaceable, dict[str, Product]]:
    """The reference's linear maps that a graph has a product for, but with other numbers; and these products.

    Told by the numbers, since names of nodes say nothing.

    Raises:
        CandidateError: there are none.
    """
    layers = reference.float_maps()
    known = {path: matrix for layer in layers for path, matrix in layer.items()}
    matched: dict[str, Product] = {}
    for product in products(network.graph):
        if network.readout is not None and product.node is network.readout.product.node:
            continue
        path, is_same = _made_of(dense(network.graph, product), known, matched)
        if path and not (is_same and not stored(network.graph, product).is_quantized):
            matched[path] = product
    if not matched:
        raise CandidateError(
            f"candidate {name}: no product inside its layers is made of a linear map of the reference with other "
            "numbers, so there is none that could be kept in high precision. Its fault lies elsewhere."
        )
    nodes = {path: (SUFFIX.sub("", product.name),) for path, product in matched.items()}
    by_layer = tuple(tuple(path for path in layer if path in matched) for layer in layers)
    return Replaceable(by_layer, reference.output_map, nodes=nodes), matched


def _made_of(ours: FloatArray, known: Mapping[str, FloatArray], taken: Mapping[str, Any]) -> tuple[str, bool]:
    """The matrix that another is made of, and whether it is the same; an empty path where it is of none."""
    places = np.random.default_rng(0).integers(0, ours.size, SAMPLED)
    sample = ours.ravel()[places]
    best, found = RELATED, ""
    for path, theirs in known.items():
        if path in taken or theirs.shape != ours.shape:
            continue
        other = theirs.ravel()[places]
        apart = float(np.linalg.norm(sample - other) / max(float(np.linalg.norm(other)), 1e-30))
        if apart < best:
            best, found = apart, path
    return found, best == 0.0


def keeping(
    network: Network, kept: Mapping[str, Product], maps: Sequence[Mapping[str, FloatArray]], name: str
) -> Network:
    """The graph with products of floats, by the reference's matrices, in some places.

    Args:
        network: the candidate's.
        kept: path in the reference to the product that its matrix replaces.
        maps: for each layer of the reference, path to `[in, out]`.
        name: how messages call the candidate.
    """
    graph = network.graph
    floats = {path: matrix for layer in maps for path, matrix in layer.items()}
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    kind = np.float16 if any(port.kind == "float16" for port in network.heads) else np.float32
    taken: dict[str, NDArray[Any]] = {}
    added: dict[str, list[Any]] = {}
    for number, (path, product) in enumerate(kept.items()):
        bias = bias_of(graph, product)
        taken[f"kept/{number}/weight"] = np.ascontiguousarray(floats[path], kind)
        if bias.any():
            taken[f"kept/{number}/bias"] = bias.astype(kind)
        added[made_by(graph, product).tensor] = _floats(graph, product, number, has_bias=bool(bias.any()))
    nodes = []
    for node in graph.model.graph.node:
        made = next((output for output in node.output if output in added), None)
        nodes.extend([node] if made is None else added[made])
    del model.graph.node[:]
    model.graph.node.extend(_needed(nodes, [output.name for output in model.graph.output]))
    for key, value in taken.items():
        tensor = model.graph.initializer.add(name=key, data_location=onnx.TensorProto.EXTERNAL)
        tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        tensor.dims.extend(value.shape)
        tensor.external_data.add(key="location", value="taken")
    weights = Weights(graph.weights.directory, {**graph.weights.taken, **taken})
    return understand(model, weights, name)


def _needed(nodes: Sequence[Any], outputs: Sequence[str]) -> list[Any]:
    """The nodes that any output follows from; the kernels of what was replaced are none of them."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= read_by_nodes(onnx.GraphProto(node=[node]))
    return kept[::-1]


def _floats(graph: Graph, product: Product, number: int, *, has_bias: bool) -> list[Any]:
    """What stands in the place of the node that makes a product's result."""
    make, place = onnx.helper.make_node, f"kept/{number}"
    read, made = read_by(graph, product), made_by(graph, product)
    nodes, given = [], read.tensor
    if read.scale:
        given = f"{place}/read"
        nodes.append(make("DequantizeLinear", [read.tensor, read.scale, *([read.zero] if read.zero else [])], [given]))
    steps = [("MatMul", f"{place}/weight"), *([("Add", f"{place}/bias")] if has_bias else [])]
    for step, (kind, factor) in enumerate(steps):
        is_last = step == len(steps) - 1 and not made.scale
        output = made.tensor if is_last else f"{place}/{kind}"
        nodes.append(make(kind, [given, factor], [output], name=f"{place}/{kind}"))
        given = output
    if made.scale:
        nodes.append(make("QuantizeLinear", [given, made.scale, *([made.zero] if made.zero else [])], [made.tensor]))
    return nodes
