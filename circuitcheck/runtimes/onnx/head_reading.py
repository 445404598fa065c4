"""How heads are read in logits: through the output projections, the final norm and the unembedding of the file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.reading import Reading, Source
from circuitcheck.runtimes.onnx.network import Network, embedding_of
from circuitcheck.runtimes.onnx.weights import dense


def reading_of(network: Network, kind: str, tokens: Sequence[int]) -> Reading:
    """The maps from the values of units to the logits of some tokens, past everything in between.

    Args:
        network: the graph, whose constants are unpacked.
        kind: of the units.
        tokens: token ids, below the size of the vocabulary.

    Returns:
        For each group `W_U[tokens] diag(norm) W_O` of each head, or `W_U[tokens] diag(norm)` of each block; the rows
        of W_U are centred where the final norm takes the mean away. A model without an unembedding of the stream's
        width is read through its token embedding, or by a seeded sketch, as a reference is.
    """
    chosen = [int(token) for token in tokens]
    written = [
        dense(network.graph, site.projection).reshape(port.group.count, port.group.width, -1)
        for site, port in zip(network.sites, network.heads, strict=True)
    ]
    source, rows = _rows(network, chosen, written[0].shape[-1])
    if kind == "block":  # which is added to the stream as it is
        return Reading(source, tuple(chosen), (rows[None],) * len(network.blocks))
    maps = tuple(np.einsum("to,cwo->ctw", rows, part, optimize=True).astype(np.float32) for part in written)
    return Reading(source, tuple(chosen), maps)


def _rows(network: Network, tokens: list[int], width: int) -> tuple[Source, NDArray[np.float32]]:
    """What of the residual stream each token's logit is made of, float32 `[tokens, d_model]`."""
    graph = network.graph
    if network.readout is not None:
        rows = network.readout.rows(graph, tokens)
        if rows.shape[1] == width:
            return "unembedding", rows
    table = embedding_of(graph, network.inputs.ids)
    if table is not None and (graph.shape(table) or (0,))[-1] == width:
        return "embedding", graph.value(table)[tokens].astype(np.float32)
    sketch = np.random.default_rng(0).standard_normal((max(tokens) + 1, width)).astype(np.float32)
    return "sketch", sketch[tokens]
