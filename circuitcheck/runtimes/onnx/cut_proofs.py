"""Proves on the loaded file that reading and replacing units means what it says, before anything is measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from circuitcheck.core.errors import SiteError
from circuitcheck.core.metric import Metric
from circuitcheck.core.runtime import Facts
from circuitcheck.runtimes.onnx.cut import Port
from circuitcheck.runtimes.onnx.graph import Graph
from circuitcheck.runtimes.onnx.ort_session import make_session
from circuitcheck.runtimes.onnx.row_company import off_and_allowed
from circuitcheck.runtimes.onnx.runner import Edit, Runner, run_session
from circuitcheck.runtimes.onnx.weights import Kept, Product, bias_of, dense, made_by, read_by

PROBE_PROMPTS = 2
"""Prompts that proofs run on; the proofs are about the graph, not about its answers."""

EXACT, ROUNDED = 1e-4, 0.5
"""How far rebuilt sums may be off, relative to the norm of all of them: of float products, whose sums are taken in
another order; and of those that round what they multiply, where only a wrong scale, zero or order of numbers is looked
for. (Integer kernels on processors without VNNI clip sums, by which 0.1 of it was seen to go.)"""

HALVES = ("float16", "bfloat16")
"""Types of values that may be wider between two kernels than the file says."""


def prove(runner: Runner, facts: Facts, quantity: Metric, ids: NDArray[np.int64], kind: str) -> None:
    """Runs every check on every port.

    Args:
        runner: the model.
        facts: of which the batch size counts.
        quantity: what is measured.
        ids: prompts of one length, `[batch, seq]`; the first ones are used.
        kind: of the units.

    Raises:
        SiteError: lists every failure with its layer, node and check.
    """
    few = ids[: min(PROBE_PROMPTS, facts.batch_size or PROBE_PROMPTS)]
    if len(few) < PROBE_PROMPTS and facts.batch_size is None:
        few = np.concatenate([few, np.roll(few, 1, axis=1)])
    # One session at a time: each keeps a copy of the weights in the order of its kernels.
    runner.sessions.clear()
    shipped = _as_shipped(runner, few)
    if not np.isfinite(shipped).all():
        failures = ["outputs, check 'finite': they are NaN or infinite; weights or activations overflow"]
    else:
        failures = [
            *_rebuilt(runner, few),
            *_untouched(runner, few, kind, shipped),
            *_write_back(runner, few, kind),
            *_rows_apart(runner, few, kind),
            *_readout(runner, quantity),
        ]
    if failures:
        raise SiteError(
            f"{runner.name}: the cut fails {len(failures)} proof(s), so no {kind} of this model can be measured:\n  "
            + "\n  ".join(failures)
        )


def _as_shipped(runner: Runner, ids: NDArray[np.int64]) -> NDArray[Any]:
    """What the graph puts out that nobody has touched, one row of numbers a prompt."""
    network = runner.network
    session = make_session(network.graph.model, network.graph.weights)
    found = run_session(session, network.outputs, network.inputs.feed(ids), runner.name, ids.shape)
    return np.concatenate([part.reshape(len(ids), -1) for part in found], 1)


def _untouched(runner: Runner, ids: NDArray[np.int64], kind: str, shipped: NDArray[Any]) -> Iterator[str]:
    """A pass of the cut graph that replaces nothing equals one of the graph as it was shipped."""
    difference = _difference(shipped, runner.probe(ids, kind))
    if difference:
        yield f"outputs, check 'untouched': the cut alone changes them by up to {difference:.3g}"


def _write_back(runner: Runner, ids: NDArray[np.int64], kind: str) -> Iterator[str]:
    """Writing back what was read changes no bit, and zeros in all units of a layer change something.

    A processor without kernels for half precision keeps what stands between two of them in float32: read and written
    in half precision, as the file has it, such values change by its rounding.
    """
    expected, values = runner.probe(ids, kind), runner.read(ids, kind)
    for place, port in enumerate(runner.ports(kind)):
        everything = np.ones((1, 1, port.group.count, 1), np.bool_)
        written = runner.probe(ids, kind, {place: (everything, values[place])})
        difference = _difference(expected, written)
        off, rounding = off_and_allowed(expected, written, expected.dtype)
        if difference and not (port.kind in HALVES and off <= rounding):
            yield _failure(
                port, "write back", f"writing back what was read changes the outputs by up to {difference:.3g}"
            )
        zero = np.zeros((1, 1, 1, 1), np.float32)
        if not _difference(expected, runner.probe(ids, kind, {place: (everything, zero)})):
            yield _failure(port, "ablation matters", f"zeroing all of its {kind}s leaves the outputs as they were")


def _rows_apart(runner: Runner, ids: NDArray[np.int64], kind: str) -> Iterator[str]:
    """An edit of one row moves that row, and leaves the other alone."""
    if len(ids) < PROBE_PROMPTS:
        return
    expected, values = runner.probe(ids, kind), runner.read(ids, kind)
    for place, port in enumerate(runner.ports(kind)):
        mask = np.zeros((len(ids), 1, port.group.count, 1), np.bool_)
        mask[0] = True
        edit: dict[int, Edit] = {place: (mask, values[place] + 2 * np.abs(values[place]).max() + 1)}
        edited = runner.probe(ids, kind, edit)
        if _difference(expected[1:], edited[1:]):
            yield _failure(port, "rows are apart", "an edit of one prompt changes the outputs of another")
        if not _difference(expected[:1], edited[:1]):
            yield _failure(port, "rows are apart", "a large edit of a prompt leaves its own outputs as they were")


def _rebuilt(runner: Runner, ids: NDArray[np.int64]) -> Iterator[str]:
    """What the heads write, by the weights that were found in the file, adds up to what their projection makes."""
    network, graph = runner.network, runner.network.graph
    checked = [(f"{site.name}, check 'heads rebuild the output'", site.projection) for site in network.sites]
    if network.readout is not None:
        product = network.readout.product
        checked.append((f"output layer, node {product.name}, check 'readout'", product))
    known = [(what, product, *_around(graph, product)) for what, product in checked]
    found = _node_by_node(runner, ids, [name for *_, read, made in known for name in (read.tensor, made.tensor)])
    for what, product, read, made in known:
        weight = dense(graph, product).astype(np.float64)
        values = read.floats(graph, found[read.tensor]).astype(np.float64).reshape(-1, len(weight))
        result = made.floats(graph, found[made.tensor]).astype(np.float64).reshape(-1, weight.shape[1])
        expected = values @ weight + bias_of(graph, product)
        is_exact = product.is_float and found[made.tensor].dtype == np.float32
        allowed = EXACT if is_exact else ROUNDED
        off = float(np.linalg.norm(expected - result)) / max(float(np.linalg.norm(result)), 1e-30)
        if not off <= allowed:
            yield (
                f"{what}: the product of what it reads and its weight is off by {off:.3g} of its norm "
                f"(rounding explains {allowed:.3g})"
            )


def _node_by_node(runner: Runner, ids: NDArray[np.int64], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Some tensors of a pass without optimizations, in which each of them is there."""
    model = onnx.ModelProto()
    model.CopyFrom(runner.network.graph.model)
    known = {output.name for output in model.graph.output}
    wanted = list(dict.fromkeys(names))
    model.graph.output.extend(onnx.ValueInfoProto(name=key) for key in wanted if key not in known)
    session = make_session(model, runner.network.graph.weights, optimized=False)
    found = run_session(session, wanted, runner.network.inputs.feed(ids), runner.name, ids.shape)
    return dict(zip(wanted, found, strict=True))


def _around(graph: Graph, product: Product) -> tuple[Kept, Kept]:
    """What a product multiplies and what it makes: a float one, just as it reads it."""
    read = Kept(product.activation, None, None) if product.is_float else read_by(graph, product)
    return read, made_by(graph, product)


def _readout(runner: Runner, quantity: Metric) -> Iterator[str]:
    """The product that makes the logits, and the norm in front of it, were found and understood."""
    if quantity.function is not None:
        return
    readout = runner.network.readout
    if readout is None:
        yield "output layer, check 'readout': the product that makes the logits was not found"
    elif readout.norm is None:
        yield (
            f"output layer, node {readout.product.name}, check 'readout': the norm in front of it is written in a way "
            "that is not known, so that heads cannot be read in logits"
        )


def _difference(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """The largest difference; NaN counts as infinite."""
    if np.array_equal(one, other):
        return 0.0
    if one.shape != other.shape:
        return np.inf
    return float(np.nan_to_num(np.abs(one.astype(np.float64) - other).max(), nan=np.inf))


def _failure(port: Port, check: str, detail: str) -> str:
    return f"{port.name}, check {check!r}: {detail}"
