"""Where a graph keeps the values of its attention heads: in front of each attention's output projection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from circuitcheck.core.errors import SiteError
from circuitcheck.core.phrases import listed
from circuitcheck.runtimes.onnx.graph import CASTS, QUANTIZERS, Graph, attribute, has_subgraph
from circuitcheck.runtimes.onnx.weights import Kept, Product, product_of, read_by, stored

CORES = ("GroupQueryAttention", "MultiHeadAttention", "Attention", "QAttention")
"""Operators that are a whole attention core. What else there is ends in a Softmax, or is not known."""

SOFTMAXES = ("Softmax", "QLinearSoftmax")
"""What makes attention weights where an attention is written out."""

HEADS = ("num_heads", "q_num_heads")
"""Attributes that say how many query heads a core has."""

UNKNOWN_CORES = ("PagedAttention", "SparseAttention", "LongformerAttention", "LinearAttention", "PackedAttention")

MIXING = ("MatMul", "FusedMatMul", "MatMulInteger", "QLinearMatMul", "MatMulIntegerToFloat", "Einsum")
"""What multiplies attention weights by values: neither factor is constant."""

PASSING = (
    *CASTS,
    *QUANTIZERS,
    "Transpose",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Slice",
    "Dropout",
    "Mul",
    "Div",
    "Where",
    "Sigmoid",
    "QLinearMul",
    "QLinearSigmoid",
)
"""What may stand between an attention and its output projection: other shapes, other types, scales, and gates."""


@dataclass(frozen=True)
class Site:
    """One layer's heads.

    Attributes:
        layer: from 0, in order of execution.
        core: the node that makes attention weights, or is the whole attention.
        heads: how many query heads the core says it has; None where its shape says it.
        kept: the heads' values.
        projection: the product that reads them.
    """

    layer: int
    core: Any
    heads: int | None
    kept: Kept
    projection: Product

    @property
    def name(self) -> str:
        """How messages call it: by its output projection."""
        return f"layer {self.layer}, node {self.projection.name}"


def find_sites(graph: Graph) -> tuple[Site, ...]:
    """The heads of all layers, in order of execution.

    From every Softmax or fused core forward to the first product with a constant weight, and from what it reads back
    over what only changes how numbers are kept. Names say nothing.

    Raises:
        SiteError: there are none, or some cannot be told apart.
    """
    sites: list[Site] = []
    for node in graph.order:
        if node.op_type in UNKNOWN_CORES or node.op_type.startswith("DecoderMasked"):
            raise SiteError(f"node {node.name or node.op_type}: an attention of the kind {node.op_type} is not known.")
        if node.op_type not in (*SOFTMAXES, *CORES):
            continue
        found = list({product.node.output[0]: product for product in _products_behind(graph, node)}.values())
        if len(found) > 1:
            raise SiteError(
                f"node {node.name or node.op_type}: {len(found)} products read this attention "
                f"({listed((product.name for product in found), 4)}), so that none is its output projection."
            )
        if found:
            sites.append(_site(graph, len(sites), node, found[0]))
        elif node.op_type in CORES:
            raise SiteError(f"node {node.name or node.op_type}: no output projection of this attention was found.")
    if not sites:
        inside = sorted({node.op_type for node in graph.model.graph.node if has_subgraph(node)})
        where = f"; what stands inside {', '.join(inside)} is not looked into: export without it" if inside else ""
        raise SiteError(f"the graph has no attention that can be found{where}.")
    return tuple(sites)


def past_sizes(graph: Graph, sites: Sequence[Site]) -> tuple[tuple[int, int], ...]:
    """Heads and width of each layer's keys and values, which builders may leave open in the inputs that take them.

    Empty where an attention is written out, and so has no node that says how many heads it has.
    """
    found = []
    for site in sites:
        weight, heads = stored(graph, site.projection), site.heads or 0
        if heads < 1 or weight.width < 1:
            return ()
        width = weight.parameters // (weight.width * heads)
        found.append((int(attribute(site.core, "kv_num_heads", heads)), width))
    return tuple(found)


def _products_behind(graph: Graph, core: Any) -> Iterator[Product]:
    """The products with a constant weight that what an attention makes goes into first."""
    mixes = 0 if core.op_type in CORES else 1
    waiting, seen = [(core.output[0], 0)], set()
    while waiting:
        state = name, mixed = waiting.pop()
        if state in seen:
            continue
        seen.add(state)
        for node in graph.consumers.get(name, ()):
            product = product_of(graph, node)
            if product is not None:
                if mixed == mixes and product.activation == name:
                    yield product
            elif node.op_type in MIXING and mixed < mixes:
                waiting.extend((output, mixed + 1) for output in filter(None, node.output))
            elif node.op_type in PASSING:
                waiting.extend((output, mixed) for output in filter(None, node.output))


def _site(graph: Graph, layer: int, core: Any, product: Product) -> Site:
    heads = next((int(count) for name in HEADS if (count := attribute(core, name))), None)
    kept = read_by(graph, product)
    for part in filter(None, (kept.scale, kept.zero)):
        if part not in graph.constants:
            raise SiteError(f"layer {layer}, node {product.name}: the scale of its heads' integers is no constant.")
    return Site(layer, core, heads, kept, product)
