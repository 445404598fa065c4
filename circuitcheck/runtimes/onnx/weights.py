"""Products with a constant weight, whatever it is kept in, and the numbers that the weight stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from circuitcheck.core.errors import ModelError
from circuitcheck.runtimes.onnx.graph import CASTS, QUANTIZERS, TO_INTEGERS, Graph, attribute

FloatArray = NDArray[np.float32]

FOUR_BIT_FLOATS = {
    0: np.array(
        [sign * size for sign in (1, -1) for size in (0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4)], np.float32
    ),
    1: np.array(
        [
            *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
            *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
            *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
            *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
        ],
        np.float32,
    ),
}
"""What the sixteen codes of MatMulBnb4 stand for, by its attribute `quant_type`: floats of four bits, and the
NormalFloat of Dettmers et al. (arXiv:2305.14314), quantiles of a normal distribution."""

FLOATS = ("float16", "bfloat16", "float32", "float64")
BITS = {
    "int8": 8,
    "uint8": 8,
    "int4": 4,
    "uint4": 4,
    "int2": 2,
    "uint2": 2,
    "int16": 16,
    "uint16": 16,
    "float4": 4,
    "float8": 8,
    "float16": 16,
    "bfloat16": 16,
    "float64": 64,
}
"""Bits of types, by how their names begin."""


@dataclass(frozen=True)
class Product:
    """A matrix product whose second factor is a part of the file.

    Attributes:
        node: the node.
        activation: the tensor that is multiplied.
        weight: the constant, as the node reads it.
    """

    node: Any
    activation: str
    weight: str

    @property
    def name(self) -> str:
        """The node's name, or that of what it makes."""
        return str(self.node.name or self.node.output[0])

    @property
    def is_float(self) -> bool:
        """Whether the node multiplies floats."""
        return self.node.op_type in FLOAT_PRODUCTS


@dataclass(frozen=True)
class Stored:
    """How the numbers of a weight are kept.

    Attributes:
        kind: their type, such as `int8`.
        bits: of one.
        is_quantized: whether they are no floats.
        parameters: how many there are.
        width: how many numbers the product makes of one position.
    """

    kind: str
    bits: float
    is_quantized: bool
    parameters: int
    width: int


def product_of(graph: Graph, node: Any) -> Product | None:
    """The node as a product with a constant weight; None where it is none."""
    places = PLACES.get(node.op_type)
    if places is None or len(node.input) <= places[1]:
        return None
    activation, weight = (node.input[place] for place in places)
    if weight not in graph.constants or activation in graph.constants:
        return None
    return Product(node, activation, weight)


@dataclass(frozen=True)
class Kept:
    """A tensor of floats, in whatever form the graph keeps it.

    Attributes:
        tensor: its name.
        scale: name of what its integers are multiplied by; None for floats.
        zero: name of what is taken from them first, if anything.
    """

    tensor: str
    scale: str | None
    zero: str | None

    def floats(self, graph: Graph, values: NDArray[Any]) -> FloatArray:
        """What the values of the tensor stand for."""
        if self.scale is None:
            return values.astype(np.float32)
        zero = graph.value(self.zero).astype(np.float32) if self.zero else np.float32(0)
        return (values.astype(np.float32) - zero) * graph.value(self.scale).astype(np.float32)


def read_by(graph: Graph, product: Product) -> Kept:
    """What a product multiplies, in front of all that only changes how numbers are kept.

    Integers that were never floats on their way come with their scale.
    """
    tensor, scale, zero = product.activation, None, None
    if product.node.op_type in INTEGER_PRODUCTS:
        scale, zero = product.node.input[1:3]
    while (node := graph.producers.get(tensor)) is not None and node.op_type in (*CASTS, *QUANTIZERS):
        if node.op_type in TO_INTEGERS:
            scale = zero = None
        elif node.op_type == "DequantizeLinear":
            scale, zero = (*node.input[1:], None)[:2]
        tensor = node.input[0]
    return Kept(tensor, scale, zero or None)


def reads_static_bytes(graph: Graph, product: Product) -> bool:
    """Whether what it multiplies is kept in 8 bits by one scale that the file fixes."""
    node: Any = product.node
    if node.op_type not in INTEGER_PRODUCTS:
        node = graph.producers.get(graph.back_over(product.activation, CASTS))
        if node is None or node.op_type != "DequantizeLinear":
            return False
    scale, zero = (*node.input[1:3], "")[:2]
    if not zero or not {scale, zero} <= graph.constants:
        return False
    return graph.value(scale).size == 1 and graph.value(zero).dtype.itemsize == 1


def made_by(graph: Graph, product: Product) -> Kept:
    """What a product makes, once its own scales are in it."""
    node, name = product.node, product.node.output[0]
    if node.op_type == "QLinearMatMul":
        return Kept(name, *node.input[6:8])
    if node.op_type == "QGemm":
        scale, zero = (*node.input[7:9], None, None)[:2]
        return Kept(name, scale or None, zero or None)
    if node.op_type == "MatMulInteger":
        cast = next((other for other in graph.consumers.get(name, ()) if other.op_type == "Cast"), None)
        scaled = [other for other in graph.consumers.get(cast.output[0], ()) if other.op_type == "Mul"] if cast else []
        return Kept(scaled[0].output[0] if scaled else name, None, None)
    return Kept(name, None, None)


def products(graph: Graph) -> list[Product]:
    """All of them, in order of execution."""
    return [found for node in graph.order if (found := product_of(graph, node)) is not None]


def dense(graph: Graph, product: Product, columns: Sequence[int] | None = None) -> FloatArray:
    """What a product multiplies by, float32 `[in, out]`.

    Args:
        graph: the graph.
        product: one of its products.
        columns: of the output, by number; all by default.

    Raises:
        ModelError: the weight is kept in a way that is not known.
    """
    weight = READERS[product.node.op_type](graph, product, None if columns is None else list(columns))
    if weight.ndim != 2:
        raise ModelError(f"the weight of {product.name} is no matrix, but {list(weight.shape)}")
    return weight.astype(np.float32)


def bias_of(graph: Graph, product: Product) -> FloatArray:
    """What a product adds by itself, of any shape that broadcasts to `[out]`."""
    node = product.node
    place = {"Gemm": 2, "DynamicQuantizeMatMul": 4, "MatMulIntegerToFloat": 6, "MatMulNBits": 5}.get(node.op_type)
    if place is None or len(node.input) <= place or not node.input[place]:
        return np.zeros(1, np.float32)
    return graph.value(node.input[place]).astype(np.float32)


def stored(graph: Graph, product: Product) -> Stored:
    """How the weight of a product is kept in the file."""
    node = product.node
    source = graph.source_of(product.weight)
    shape = graph.shape(source) or ()
    if node.op_type == "MatMulNBits":
        bits, rows, width = (int(attribute(node, name, 0)) for name in ("bits", "K", "N"))
        return Stored(f"int{bits or 4}", float(bits or 4), True, rows * width, width)
    if node.op_type == "MatMulBnb4":
        rows, width = (int(attribute(node, name, 0)) for name in ("K", "N"))
        return Stored("float4", 4.0, True, rows * width, width)
    kind = element_kind(graph, source)
    turned = node.op_type in ("Gemm", "QGemm", "FusedMatMul") and attribute(node, "transB", 0)
    width = (graph.shape(product.weight) or (0,))[-2 if turned else -1]
    bits = next((bits for name, bits in BITS.items() if kind.startswith(name)), 32)
    return Stored(kind, float(bits), kind not in FLOATS, int(np.prod(shape)), width)


def element_kind(graph: Graph, name: str) -> str:
    """The type of a constant's numbers, such as `float32` or `int4`."""
    tensor = graph.initializers.get(name)
    if tensor is None:
        return str(graph.value(name).dtype)
    kind = str(onnx.TensorProto.DataType.Name(tensor.data_type)).lower()
    return {"float": "float32", "double": "float64"}.get(kind, kind)


def _plain(graph: Graph, product: Product, columns: list[int] | None) -> NDArray[Any]:
    weight = graph.value(product.weight)
    if attribute(product.node, "transB", 0):
        weight = weight.swapaxes(-1, -2)
    weight = weight if columns is None else weight[..., columns]
    return weight.astype(np.float32) * np.float32(attribute(product.node, "alpha", 1.0))


def _integers(
    graph: Graph, product: Product, columns: list[int] | None, scale: str, zero: str | None, *, turned: bool = False
) -> NDArray[Any]:
    """`scale * (weight - zero)`; both are of the whole weight, or of each column."""
    weight = graph.value(product.weight).astype(np.float32)
    offset = graph.value(zero).astype(np.float32) if zero else np.zeros((), np.float32)
    weight = (weight.swapaxes(-1, -2) if turned else weight) - offset
    scaled: NDArray[Any] = weight * graph.value(scale).astype(np.float32)
    return scaled if columns is None else scaled[..., columns]


def _linear(graph: Graph, product: Product, columns: list[int] | None) -> NDArray[Any]:
    scale, zero = product.node.input[4:6]
    turned = product.node.op_type == "QGemm" and bool(attribute(product.node, "transB", 0))
    return _integers(graph, product, columns, scale, zero, turned=turned)


def _with_scale(place: int, zero: int) -> Callable[[Graph, Product, list[int] | None], NDArray[Any]]:
    def read(graph: Graph, product: Product, columns: list[int] | None) -> NDArray[Any]:
        names = product.node.input
        return _integers(graph, product, columns, names[place], names[zero] if len(names) > zero else None)

    return read


def _bare_integers(graph: Graph, product: Product, columns: list[int] | None) -> NDArray[Any]:
    """The scale stands behind the product: its result times that of the activation times that of the weight."""
    names = product.node.input
    scale = _scale_behind(graph, product.node.output[0])
    if scale is None:
        raise ModelError(f"the scale of the weight of {product.name} was not found")
    return _integers(graph, product, columns, scale, names[3] if len(names) > 3 else None)


def _scale_behind(graph: Graph, name: str) -> str | None:
    for _ in range(len(CASTS) + 1):
        for node in graph.consumers.get(name, ()):
            if node.op_type == "Mul":
                other = next((part for part in node.input if part != name), "")
                maker = graph.producers.get(other)
                factors = (other,) if maker is None or maker.op_type != "Mul" else tuple(maker.input)
                return next((factor for factor in factors if factor in graph.constants), None)
        follower = next((node for node in graph.consumers.get(name, ()) if node.op_type in CASTS), None)
        if follower is None:
            return None
        name = follower.output[0]
    return None


def _packed(graph: Graph, product: Product, columns: list[int] | None) -> NDArray[Any]:
    """Blocks along a column's input, with a scale and a zero each; several numbers in a byte, lowest bits first."""
    node = product.node
    names = (*node.input, "", "", "")
    bits, rows, width, size = (int(attribute(node, name, 0)) for name in ("bits", "K", "N", "block_size"))
    bits, count = bits or 4, -(-rows // max(size, 1))
    if names[4] or bits not in (2, 4, 8):
        raise ModelError(f"{product.name} keeps its weight in an order, or in bits, that are not known")
    chosen: Any = slice(None) if columns is None else columns
    numbers = unpacked(graph.value(product.weight).reshape(width, -1)[chosen], bits).reshape(-1, count, size)
    scales = graph.value(names[2]).reshape(width, count)[chosen].astype(np.float32)
    zeros: Any = np.float32(2 ** (bits - 1))
    if names[3]:
        given = graph.value(names[3])
        given = given.reshape(width, -1)[chosen]
        given = unpacked(given, bits)[:, :count] if given.dtype == np.uint8 else given
        zeros = given.astype(np.float32)[..., None]
    scaled: NDArray[Any] = (numbers.astype(np.float32) - zeros) * scales[..., None]
    return scaled.reshape(len(scales), -1)[:, :rows].T


def _four_bit_floats(graph: Graph, product: Product, columns: list[int] | None) -> NDArray[Any]:
    """Blocks along all columns in turn, with a scale each; two numbers in a byte, the first in its high bits."""
    node = product.node
    rows, width, size, kind = (int(attribute(node, name, 0)) for name in ("K", "N", "block_size", "quant_type"))
    if kind not in FOUR_BIT_FLOATS or size < 1:
        raise ModelError(f"{product.name} keeps its weight in floats of four bits that are not known")
    packed, scales = (graph.value(name).reshape(-1) for name in (product.weight, node.input[2]))
    if packed.dtype != np.uint8 or min(2 * len(packed), size * len(scales)) < rows * width:
        raise ModelError(f"{product.name} says that its weight is {rows} x {width}, and holds less")
    numbers = FOUR_BIT_FLOATS[kind][np.stack([packed >> 4, packed & 15], -1).reshape(-1)[: rows * width]]
    scaled: NDArray[Any] = (numbers * scales.astype(np.float32).repeat(size)[: rows * width]).reshape(width, rows)
    return (scaled if columns is None else scaled[columns]).T


def unpacked(numbers: NDArray[Any], bits: int) -> NDArray[Any]:
    """`[rows, bytes]` of uint8 to `[rows, numbers]`."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    found: NDArray[Any] = (numbers[..., None] >> shifts) & (2**bits - 1)
    return found.reshape(len(numbers), -1)


PLACES = {
    "MatMul": (0, 1),
    "Gemm": (0, 1),
    "FusedMatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1),
    "DynamicQuantizeMatMul": (0, 1),
    "QLinearMatMul": (0, 3),
    "QGemm": (0, 3),
    "MatMulNBits": (0, 1),
    "MatMulBnb4": (0, 1),
}
"""Where each operator has its activation and its weight."""

FLOAT_PRODUCTS = ("MatMul", "Gemm", "FusedMatMul")
INTEGER_PRODUCTS = ("QLinearMatMul", "QGemm")
"""What multiplies floats, and what is given the scale of the integers that it multiplies."""

READERS: dict[str, Callable[[Graph, Product, list[int] | None], NDArray[Any]]] = {
    **dict.fromkeys(FLOAT_PRODUCTS, _plain),
    "MatMulInteger": _bare_integers,
    "MatMulIntegerToFloat": _with_scale(3, 5),
    "DynamicQuantizeMatMul": _with_scale(2, 3),
    "QLinearMatMul": _linear,
    "QGemm": _linear,
    "MatMulNBits": _packed,
    "MatMulBnb4": _four_bit_floats,
}
