"""Where a graph adds what each attention and each MLP makes to the residual stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from circuitcheck.core.errors import SiteError
from circuitcheck.core.units import Group
from circuitcheck.runtimes.onnx.cut import Port
from circuitcheck.runtimes.onnx.graph import CASTS, QUANTIZERS, Graph
from circuitcheck.runtimes.onnx.sites import Site
from circuitcheck.runtimes.onnx.weights import Kept, Product, made_by, products, stored

ADDITIONS = ("Add", "QLinearAdd")
OVER = (*CASTS, *QUANTIZERS, "Reshape")
"""What may stand between a product and the sum that it goes into, beside a bias."""


def find_blocks(graph: Graph, sites: Sequence[Site], output: Product | None) -> tuple[Port, ...]:
    """Ports of each layer's attention and MLP, in order of execution.

    Args:
        graph: the graph.
        sites: its heads, by whose output projections attentions are known.
        output: the unembedding, which is none of them.

    Raises:
        SiteError: some are not found, as where norms or experts stand between a product and the stream.
    """
    width = stored(graph, sites[0].projection).width
    heads = {site.projection.node.output[0]: site for site in sites}
    attentions: dict[int, Kept] = {}
    others: list[tuple[Product, Kept]] = []
    for product in products(graph):
        if (output is not None and product.node is output.node) or stored(graph, product).width != width:
            continue
        added = _added(graph, product)
        site = heads.get(product.node.output[0])
        if site is not None and added is not None:
            attentions[site.layer] = added
        elif added is not None:
            others.append((product, added))
    if len(attentions) != len(sites) or len(others) != len(sites):
        raise SiteError(
            f"of {len(sites)} layers, {len(attentions)} attentions and {len(others)} MLPs add what a product makes to "
            "the residual stream, so that whole attentions and MLPs cannot be told apart."
        )
    return tuple(
        _port(name, site.layer, width, kept, label)
        for site, (product, mlp) in zip(sites, others, strict=True)
        for name, kept, label in (
            ("attention", attentions[site.layer], site.projection.name),
            ("mlp", mlp, product.name),
        )
    )


def _port(name: str, layer: int, width: int, kept: Kept, label: str) -> Port:
    group = Group(f"{name} {layer}", layer, 1, width, numbered=False)
    return Port(group, kept.tensor, "", kept.scale, kept.zero, f"layer {layer}, node {label}")


def _added(graph: Graph, product: Product) -> Kept | None:
    """What of a product is added to another variable tensor; None where that is not what becomes of it."""
    kept, steps = made_by(graph, product), len(graph.model.graph.node)
    for _ in range(steps):
        readers = graph.consumers.get(kept.tensor, ())
        if any(_is_sum(graph, node, kept.tensor) for node in readers):
            return kept
        node = next((node for node in readers if node.op_type in (*OVER, *ADDITIONS)), None)
        if node is None:
            return None
        kept = _behind(node, kept)
    return None


def _is_sum(graph: Graph, node: Any, name: str) -> bool:
    if node.op_type.startswith("Skip"):
        return name in node.input[:2]
    terms = [node.input[0], node.input[3]] if node.op_type == "QLinearAdd" else list(node.input)
    return node.op_type in ADDITIONS and name in terms and not any(term in graph.constants for term in terms)


def _behind(node: Any, kept: Kept) -> Kept:
    """What a node makes of a tensor, and in which form."""
    if node.op_type == "QuantizeLinear":
        return Kept(node.output[0], node.input[1], node.input[2] if len(node.input) > 2 else None)
    if node.op_type == "QLinearAdd":
        return Kept(node.output[0], node.input[6], node.input[7] if len(node.input) > 7 else None)
    if node.op_type == "DequantizeLinear":
        return Kept(node.output[0], None, None)
    return Kept(node.output[0], kept.scale, kept.zero)
