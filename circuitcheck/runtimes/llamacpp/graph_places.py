"""Where units are in llama.cpp's graph: found by the weights that read or made them, not by names of nodes.

What nodes are called says something else in some architectures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from circuitcheck.core.errors import SiteError
from circuitcheck.runtimes.llamacpp.eval_hook import Node, Place

PRODUCT, SUM = "MUL_MAT", "ADD"
ATTENTION, MLP = "blk.{layer}.attn_output.weight", "blk.{layer}.ffn_down.weight"
"""The weights that end a layer's attention and its MLP."""


def head_places(nodes: Sequence[Node], layers: int) -> list[Place]:
    """Where z is made: the second source of the product with each layer's attention output projection.

    Raises:
        SiteError: names the layers without exactly one such product.
    """
    return _all(partial(_multiplied, nodes, ATTENTION), layers, "heads")


def neuron_places(nodes: Sequence[Node], layers: int) -> list[Place]:
    """Where neurons are made: the second source of the product with each MLP's down projection.

    Raises:
        SiteError: names the layers without exactly one such product.
    """
    return _all(partial(_multiplied, nodes, MLP), layers, "neurons")


def block_places(nodes: Sequence[Node], layers: int) -> list[Place]:
    """Where what each layer's attention and MLP add to the residual stream is made: the last value before that sum.

    Raises:
        SiteError: names the layers in which there is no such sum.
    """

    def last_of(weight: str, layer: int) -> Place:
        return _summand(nodes, _product(nodes, weight.format(layer=layer)))

    def end_of_mlp(layer: int) -> Place:
        if any(node.first_name == MLP.format(layer=layer) for node in nodes):
            return last_of(MLP, layer)
        return _beside(nodes, last_of(ATTENTION, layer))

    found = [_all(find, layers, "blocks") for find in (partial(last_of, ATTENTION), end_of_mlp)]
    return [place for pair in zip(*found, strict=True) for place in pair]


FINDERS: dict[str, Callable[[Sequence[Node], int], list[Place]]] = {
    "head": head_places,
    "block": block_places,
    "neuron": neuron_places,
}
"""Kind of unit to what finds its places, in the order of the layout."""


def _all(find: Callable[[int], Place], layers: int, what: str) -> list[Place]:
    places, wrong = [], []
    for layer in range(layers):
        try:
            places.append(find(layer))
        except SiteError as error:
            wrong.append(f"layer {layer}: {error}")
    if wrong:
        raise SiteError(f"the {what} of this file cannot be found in llama.cpp's graph: {'; '.join(wrong[:5])}.")
    return places


def _multiplied(nodes: Sequence[Node], weight: str, layer: int) -> Place:
    """What a layer's weight is multiplied with."""
    reader = _product(nodes, weight.format(layer=layer))
    numbers = {node.address: number for number, node in enumerate(nodes)}
    maker = numbers.get(nodes[reader].sources[1])
    if maker is None:
        raise SiteError(f"what {nodes[reader].first_name} is multiplied with is no value of the graph")
    return Place(maker, nodes[maker].name, reader)


def _product(nodes: Sequence[Node], weight: str) -> int:
    """The number of the one product with a weight."""
    found = [number for number, node in enumerate(nodes) if node.operation == PRODUCT and node.first_name == weight]
    if len(found) != 1:
        raise SiteError(f"it has {len(found)} products with {weight}")
    return found[0]


def _summand(nodes: Sequence[Node], start: int) -> Place:
    """The last value, on the only way from a product, before it is added to another value of the graph.

    A bias is no value of the graph but a weight; a norm behind the product belongs to what is added.
    """
    values = {node.address for node in nodes}
    number = start
    while True:
        address = nodes[number].address
        readers = [later for later, node in enumerate(nodes) if later > number and address in node.sources]
        if len(readers) != 1:
            raise SiteError(f"{nodes[number].name} is read by {len(readers)} others")
        reader = nodes[readers[0]]
        if reader.operation == SUM and all(source in values for source in reader.sources):
            return Place(number, nodes[number].name, readers[0])
        number = readers[0]


def _beside(nodes: Sequence[Node], attention: Place) -> Place:
    """What is added to the stream after a layer's attention was: by experts, which end in many products."""
    assert attention.reader is not None  # of a summand
    stream = nodes[attention.reader].address
    numbers = {node.address: number for number, node in enumerate(nodes)}
    for reader, node in enumerate(nodes):
        if reader > attention.reader and node.operation == SUM and stream in node.sources:
            others = [numbers[source] for source in node.sources if source != stream and source in numbers]
            if len(others) == 1:
                return Place(others[0], nodes[others[0]].name, reader)
    raise SiteError(f"nothing is added to {nodes[attention.reader].name}")
