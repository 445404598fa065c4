"""What stands between the last layer and the logits: the final norm, the unembedding, and what is done to logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.errors import SiteError
from circuitcheck.runtimes.onnx.graph import CASTS, QUANTIZERS, Graph
from circuitcheck.runtimes.onnx.weights import Kept, Product, dense, product_of, read_by

SHAPES = ("Reshape", "Slice", "Gather", "GatherND", "Squeeze", "Unsqueeze", "Flatten", "Transpose")
"""What picks positions, or turns axes."""

CHANGES = ("Add", "Sub", "Mul", "Div", "Tanh")
"""What models do to their logits: a bias, a scale, a cap."""

NORMS = {
    "LayerNormalization": (1, True),
    "SkipLayerNormalization": (2, True),
    "EmbedLayerNormalization": (5, True),
    "SimplifiedLayerNormalization": (1, False),
    "RMSNormalization": (1, False),
    "SkipSimplifiedLayerNormalization": (2, False),
}
"""Operators that are a whole norm: the place of their scale, and whether they take the mean away."""

ADDITIONS = ("Add", "QLinearAdd")
OVER = (*CASTS, *QUANTIZERS)

FAR = 6
"""Nodes between a norm's division and the root that it divides by, at the most."""


@dataclass(frozen=True)
class Norm:
    """A final norm.

    Attributes:
        scale: what it multiplies each number by, `[d_model]`; one number where there is none.
        is_centred: whether it takes the mean away first.
    """

    scale: NDArray[np.float32]
    is_centred: bool


NONE = Norm(np.ones(1, np.float32), False)


@dataclass(frozen=True)
class Readout:
    """The unembedding of a graph.

    Attributes:
        product: of the final hidden state and the unembedding.
        hidden: the final hidden state.
        is_plain: whether its result is the logits themselves, but for their type and for picking positions.
        norm: in front of it; None where what stands there is not understood.
    """

    product: Product
    hidden: Kept
    is_plain: bool
    norm: Norm | None

    def rows(self, graph: Graph, tokens: list[int]) -> NDArray[np.float32]:
        """What of the residual stream each token's logit is made of, `[tokens, d_model]`.

        Raises:
            SiteError: the final norm is not understood.
        """
        if self.norm is None:
            raise SiteError(
                f"the norm in front of the output layer, node {self.product.name}, is written in a way that is not "
                "known, so that heads cannot be read in logits."
            )
        rows = dense(graph, self.product, tokens).T * self.norm.scale
        return rows - rows.mean(1, keepdims=True) if self.norm.is_centred else rows


def find_readout(graph: Graph, logits: str) -> Readout | None:
    """The product whose result the logits are; None where there is none, as in an encoder.

    Args:
        graph: the graph.
        logits: the output that holds them.
    """
    name, is_plain = logits, True
    for _ in range(len(graph.model.graph.node)):
        node = graph.producers.get(name)
        if node is None:
            return None
        product = product_of(graph, node)
        if product is not None:
            hidden = read_by(graph, product)
            return Readout(product, hidden, is_plain, _norm(graph, hidden.tensor))
        if node.op_type not in (*CASTS, *QUANTIZERS, *SHAPES, *CHANGES):
            return None
        is_plain &= node.op_type not in CHANGES
        variable = [part for part, is_constant in graph.parts(node) if not is_constant]
        name = _larger(graph, node, variable)
    return None


def _larger(graph: Graph, node: Any, names: list[str]) -> str:
    """Of the variable inputs the one that holds numbers; a shape, or the scale of an integer product, is another."""
    if node.op_type not in CHANGES or len(names) < 2:
        return names[0] if names else ""
    return next((name for name in names if _leads_to_product(graph, name)), names[0])


def _leads_to_product(graph: Graph, name: str) -> bool:
    node = graph.producers.get(graph.back_over(name, (*CASTS, "DequantizeLinear")))
    return node is not None and (product_of(graph, node) is not None or node.op_type in CHANGES[2:])


def _norm(graph: Graph, hidden: str) -> Norm | None:
    """The norm in front of the unembedding, if it stands on the residual stream; None where it is not understood.

    Of a norm that is one operator, its scale; of one that is written out, the constant of its last product. Behind
    anything else than a norm, or behind the norm of a head that computes more than logits, the stream is read as it is.
    """
    name = graph.back_over(hidden, (*CASTS, *QUANTIZERS, *SHAPES))
    node = graph.producers.get(name)
    if node is not None and node.op_type in ADDITIONS and _constant(graph, node) is not None:
        node = graph.producers.get(graph.back_over(_variable(graph, node)[0], (*CASTS, *QUANTIZERS)))
    if node is None or node.op_type in ADDITIONS:
        return NONE
    if node.op_type in NORMS:
        place, is_centred = NORMS[node.op_type]
        norm = Norm(graph.value(node.input[place]).astype(np.float32), is_centred)
        return norm if node.op_type.startswith("Skip") or _is_stream(graph, node.input[0]) else NONE
    if node.op_type not in ("Mul", "Div", "QLinearMul"):
        return None
    scale = _constant(graph, node)
    # One that has no scale of its own ends in the division itself.
    rest = node if scale is None else graph.producers.get(graph.back_over(_variable(graph, node)[0], OVER))
    found = None if rest is None else _normed(graph, rest)
    if found is None:
        return None
    stream, is_centred = found
    return Norm(np.ones(1, np.float32) if scale is None else scale, is_centred) if _is_stream(graph, stream) else NONE


def _normed(graph: Graph, node: Any) -> tuple[str, bool] | None:
    """What a division by a root of a mean divides, and whether the mean was taken away from it."""
    if node.op_type not in ("Mul", "Div", "QLinearMul", "QLinearDiv"):
        return None
    parts = [graph.back_over(name, OVER) for name in _variable(graph, node)]
    top = next((name for name in parts if not _is_root(graph, name)), None)
    if top is None or not any(_is_root(graph, name) for name in parts):
        return None
    maker = graph.producers.get(top)
    if maker is not None and maker.op_type in ("Sub", "QLinearSub"):
        first, second = (graph.back_over(name, OVER) for name in _variable(graph, maker)[:2])
        mean = graph.producers.get(second)
        if mean is not None and "ReduceMean" in mean.op_type:
            return first, True
    return top, False


def _is_root(graph: Graph, name: str) -> bool:
    """Whether a tensor is the root of a mean, or one over it."""
    for _ in range(FAR):
        node = graph.producers.get(graph.back_over(name, OVER))
        if node is None:
            return False
        if node.op_type in ("Sqrt", "Rsqrt"):
            return True
        if node.op_type not in ("Reciprocal", "Div", "Pow", "Mul"):
            return False
        variable = _variable(graph, node)
        if len(variable) != 1:
            return False
        name = variable[0]
    return False


def _is_stream(graph: Graph, name: str) -> bool:
    """Whether a tensor is a sum of two parts of the residual stream."""
    node = graph.producers.get(graph.back_over(name, OVER))
    if node is None:
        return False
    return node.op_type.startswith("Skip") or (node.op_type in ADDITIONS and len(_variable(graph, node)) > 1)


def _variable(graph: Graph, node: Any) -> list[str]:
    """The factors, or terms, that are not constant."""
    return [name for name in _operands(node) if name not in graph.constants]


def _constant(graph: Graph, node: Any) -> NDArray[np.float32] | None:
    """The factor, or term, that is."""
    places = [place for place, name in enumerate(_operands(node)) if name in graph.constants]
    if not places:
        return None
    if not node.op_type.startswith("QLinear"):
        return graph.value(node.input[places[0]]).astype(np.float32)
    kept = Kept(*node.input[3 * places[0] : 3 * places[0] + 3])
    return kept.floats(graph, graph.value(kept.tensor))


def _operands(node: Any) -> list[str]:
    """Those of integers come with a scale and a zero each, and so does the result."""
    return [node.input[0], node.input[3]] if node.op_type.startswith("QLinear") else list(node.input)
