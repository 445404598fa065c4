"""A file as it is understood: its inputs, its ports, its logits, and what its weights are kept in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from circuitcheck.core.census import Census, FoundWeight, summarize_census
from circuitcheck.core.errors import ModelError, SiteError
from circuitcheck.core.units import Group
from circuitcheck.runtimes.onnx.blocks import find_blocks
from circuitcheck.runtimes.onnx.cut import PREFIX, Port
from circuitcheck.runtimes.onnx.graph import Graph
from circuitcheck.runtimes.onnx.inputs import PROBE_TOKENS, Inputs, inputs_of
from circuitcheck.runtimes.onnx.ort_session import Weights, make_session
from circuitcheck.runtimes.onnx.readout import Readout, find_readout
from circuitcheck.runtimes.onnx.sites import CORES, Site, find_sites, past_sizes
from circuitcheck.runtimes.onnx.weights import products, reads_static_bytes, stored

PROBE_ROWS = 2
"""Rows of a first pass, from which the shapes of everything are read."""

STATES = ("present", "past")
"""How outputs are called that hold keys and values."""

STATE = re.compile(r"(present|past)(_key_values?)?")
"""What precedes the place, in the name of an input or output that holds keys and values."""


@dataclass(frozen=True)
class Network:
    """What is known of a graph.

    Attributes:
        graph: as it was shipped.
        inputs: what it is fed.
        outputs: its own outputs, but for keys and values.
        heads: ports of its heads, in order of execution.
        sites: where they were found, in the same order.
        logits: the output that the logits are read from; None for an encoder.
        readout: how they are made; None where no unembedding was found.
        vocabulary: how many token ids it knows; None where that cannot be seen.
        widths: numbers that its widest product, and the logits, have at one position.
    """

    graph: Graph
    inputs: Inputs
    outputs: tuple[str, ...]
    heads: tuple[Port, ...]
    sites: tuple[Site, ...]
    logits: str | None
    logits_kind: str
    readout: Readout | None
    vocabulary: int | None
    widths: tuple[int, int]

    @cached_property
    def blocks(self) -> tuple[Port, ...]:
        """Ports of each layer's attention and MLP.

        Raises:
            SiteError: they cannot be told apart.
        """
        found = find_blocks(self.graph, self.sites, self.readout.product if self.readout else None)
        # Heads and the stream are kept in one type of floats.
        floats = (port.kind for port in self.heads if port.scale is None)
        kind = next(floats, self.logits_kind or "float32")
        return tuple(replace(port, kind=kind) for port in found)

    @cached_property
    def states(self) -> dict[str, str]:
        """Output to the input that takes its keys and values as a past; none where one of them is missing."""
        place = {STATE.sub("", name, count=1): name for name in self.inputs.past}
        outputs = (output.name for output in self.graph.model.graph.output if output.name.startswith(STATES))
        found = {name: place[rest] for name in outputs if (rest := STATE.sub("", name, count=1)) in place}
        return found if len(found) == len(place) else {}

    @property
    def reads_hidden(self) -> bool:
        """Whether logits are rounded so coarsely that the rows of a float unembedding are applied to what it reads."""
        readout = self.readout
        if self.logits_kind != "float16" or readout is None or not (readout.is_plain and readout.product.is_float):
            return False
        return not stored(self.graph, readout.product).is_quantized


def understand(model: Any, weights: Weights, name: str) -> Network:
    """Finds the heads and the logits of a parsed model, from its graph and from one small pass.

    Raises:
        ModelError: it cannot be run, or takes what is not known.
        SiteError: its heads cannot be found.
    """
    if any(part.startswith(PREFIX) for node in model.graph.node for part in node.output):
        raise ModelError(f"{name} was cut already; gate the file that is released.")
    graph = Graph(model, weights)
    sites = find_sites(graph)
    outputs = tuple(output.name for output in model.graph.output if not output.name.startswith(STATES))
    shown = [name for site in sites for name in (site.core.output[0], site.kept.tensor)]
    inputs, seen = _first_pass(graph, sites, shown, name)
    rows = inputs.batch or PROBE_ROWS
    ports = tuple(_port(site, seen, rows) for site in sites)
    logits = _logits(outputs, seen)
    readout = None if logits is None else find_readout(graph, logits)
    widest = max((stored(graph, product).width for product in products(graph)), default=1)
    return Network(
        graph=graph,
        inputs=inputs,
        outputs=outputs,
        heads=ports,
        sites=sites,
        logits=logits,
        logits_kind="" if logits is None else str(seen[logits].dtype),
        readout=readout,
        vocabulary=_embedded(graph, inputs.ids) if logits is None else int(seen[logits].shape[-1]),
        widths=(widest, 0 if logits is None else int(seen[logits].shape[-1])),
    )


def _first_pass(
    graph: Graph, sites: Sequence[Site], names: Sequence[str], name: str
) -> tuple[Inputs, dict[str, NDArray[Any]]]:
    """The inputs, and some tensors of a pass of two rows, node by node."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=key) for key in dict.fromkeys(names) if key not in known)
    session = make_session(model, graph.weights, optimized=False)
    inputs = inputs_of(session, name, past_sizes(graph, sites))
    rows = inputs.batch or PROBE_ROWS
    ids = np.arange(rows * PROBE_TOKENS).reshape(rows, PROBE_TOKENS) % 2
    asked = [output.name for output in session.get_outputs() if not output.name.startswith(STATES)]
    try:
        found = session.run(asked, inputs.feed(ids.astype(np.int64)))
    except Exception as error:  # its exceptions have no base class of their own
        raise ModelError(f"{name} cannot be run on {rows} prompts of {PROBE_TOKENS} tokens: {error}") from error
    return inputs, dict(zip(asked, found, strict=True))


def _port(site: Site, seen: dict[str, NDArray[Any]], rows: int) -> Port:
    weights, values = seen[site.core.output[0]], seen[site.kept.tensor]
    positions = rows * PROBE_TOKENS
    heads = site.heads or (
        weights.shape[1] if site.core.op_type in CORES else weights.size // (positions * weights.shape[-1])
    )
    width = values.size // (positions * max(heads, 1))
    if not width or heads * width * positions != values.size:
        raise SiteError(
            f"{site.name}: its {heads} heads do not divide what it reads, {list(values.shape)} for {rows} prompts of "
            f"{PROBE_TOKENS} tokens."
        )
    group = Group(str(site.layer), site.layer, heads, width)
    return Port(group, site.kept.tensor, str(values.dtype), site.kept.scale, site.kept.zero, site.name)


def _logits(outputs: tuple[str, ...], seen: dict[str, NDArray[Any]]) -> str | None:
    """The output of that name with one row a position."""
    return next((key for key in outputs if key.endswith("logits") and seen[key].ndim == 3), None)


def _embedded(graph: Graph, ids: str) -> int | None:
    """Rows of the table of token embeddings."""
    table = embedding_of(graph, ids)
    shape = None if table is None else graph.shape(table)
    return shape[0] if shape else None


def embedding_of(graph: Graph, ids: str) -> str | None:
    """The constant that token ids pick rows of."""
    for node in graph.consumers.get(ids, ()):
        if node.op_type == "Gather" and node.input[0] in graph.constants and node.input[1] == ids:
            return str(node.input[0])
        if node.op_type == "EmbedLayerNormalization":
            return str(node.input[2])
        if node.op_type == "Cast":
            return embedding_of(graph, node.output[0])
    return None


def is_static(network: Network) -> bool:
    """Whether most of the layers' quantized products read 8-bit activations by scales that the file fixes."""
    graph = network.graph
    output = network.readout.product.node if network.readout else None
    quantized = [one for one in products(graph) if one.node is not output and stored(graph, one).is_quantized]
    return 2 * sum(reads_static_bytes(graph, one) for one in quantized) > len(quantized)


def census_of(network: Network) -> Census:
    """What the weights of all products are kept in; the unembedding is none of the layers' projections."""
    graph, found = network.graph, []
    output = network.readout.product.node if network.readout else None
    for product in products(graph):
        weight = stored(graph, product)
        kind = FoundWeight(
            module=product.node.op_type,
            weight=weight.kind,
            bits=weight.bits,
            parameters=weight.parameters,
            is_projection=product.node is not output,
            is_quantized=weight.is_quantized,
        )
        found.append(kind)
    claim = "onnx" if any(weight.is_quantized and weight.is_projection for weight in found) else None
    return summarize_census(found, found, claim)
