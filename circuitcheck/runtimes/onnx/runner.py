"""Runs a cut graph: reads ports, writes them, and gives the logits of the last position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.errors import MemoryBudgetError, ModelError, SiteError
from circuitcheck.core.phrases import first_lines
from circuitcheck.core.units import Layout
from circuitcheck.runtimes.onnx.cut import Port, cut
from circuitcheck.runtimes.onnx.inputs import Past
from circuitcheck.runtimes.onnx.network import Network
from circuitcheck.runtimes.onnx.ort_session import make_session

FloatArray = NDArray[np.float32]
Edit = tuple[NDArray[np.bool_], FloatArray]
"""Which units of a group are replaced, `[batch, seq, count, 1]`, and by what, `[batch, seq, count, width]`."""

MOST_TOKENS = 1024
"""Tokens of one batch beyond which nothing gets faster on a CPU: the activations leave its cache."""

PAST_BYTES = 2**25
"""Keys and values of earlier positions in one batch, beyond which nothing gets faster for the same reason."""

UNITS = ("head", "block")


@dataclass(frozen=True)
class Rows:
    """What one pass runs.

    Attributes:
        ids: token ids, `[batch, seq]`.
        kind: of the units that may be replaced.
        edits: place of a group to what is replaced in it; all others stay as they are.
        past: keys and values of the positions before these.
    """

    ids: NDArray[np.int64]
    kind: str = "head"
    edits: Mapping[int, Edit] = field(default_factory=dict)
    past: Past = field(default_factory=dict)


@dataclass(frozen=True)
class Runner:
    """A cut graph in a session.

    Attributes:
        network: what is known of the graph.
        name: how messages call it.
        sessions: kind of unit to the session of the graph that is cut for it; filled when one is needed.
    """

    network: Network
    name: str
    sessions: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def ports(self, kind: str) -> tuple[Port, ...]:
        """Where units of a kind are read and written.

        Raises:
            SiteError: it has none that can be found.
        """
        if kind not in UNITS:
            raise SiteError(f"{self.name}: units of a model in ONNX Runtime are {', '.join(UNITS)}, not {kind!r}.")
        return self.network.heads if kind == "head" else self.network.blocks

    def layout(self, kind: str) -> Layout:
        """Its units of a kind."""
        return Layout(kind, tuple(port.group for port in self.ports(kind)))

    def rows(self, seq: int, memory: int | None, most: int | None, before: int = 0) -> int:
        """How many rows of `seq` tokens run together.

        Args:
            seq: tokens of a prompt.
            memory: budget in bytes; none by default, because rows are few.
            most: the most rows in one pass; None for no limit.
            before: positions before these, whose keys and values are given.

        Raises:
            MemoryBudgetError: one row does not fit the budget.
        """
        rows = max(1, MOST_TOKENS // seq)
        if before:
            rows = min(rows, max(1, PAST_BYTES // (before * self.network.inputs.past_bytes)))
        if memory is not None:
            needed = self.row_bytes(seq, before)
            if needed > memory:
                raise MemoryBudgetError(
                    f"{self.name}: one prompt of {seq + before} tokens needs about {needed:,} bytes beside the model, "
                    f"and the memory budget is {memory:,} bytes. Raise the budget, or use shorter prompts."
                )
            rows = min(rows, memory // needed)
        return min(rows, most or rows)

    def row_bytes(self, seq: int, before: int = 0) -> int:
        """Memory that one row is estimated to need: its widest products, its attention weights, values and logits.

        Keys and values are there twice, as they are given and with those of the row behind them.
        """
        widest, vocabulary = self.network.widths
        heads = max(port.group.count for port in self.network.heads)
        values = sum(port.group.count * port.group.width for port in self.network.heads)
        states = (2 * before + seq) * self.network.inputs.past_bytes
        return 4 * seq * (4 * widest + 3 * heads * (seq + before) + 2 * values + 2 * vocabulary) + states

    def run(self, rows: Rows, names: Sequence[str]) -> list[NDArray[Any]]:
        """One pass of the cut graph.

        Args:
            rows: what runs.
            names: the outputs that are asked for.

        Raises:
            ModelError: the library cannot run it.
        """
        feed = self.network.inputs.feed(rows.ids, rows.past)
        for place, port in enumerate(self.ports(rows.kind)):
            mask, value = rows.edits.get(place, NOTHING)
            feed |= {port.part("mask"): mask, port.part("value"): value}
        return run_session(self.session(rows.kind), names, feed, self.name, rows.ids.shape)

    def session(self, kind: str) -> Any:
        """The session of the graph that is cut for units of a kind."""
        if kind not in self.sessions:
            self.sessions[kind] = make_session(self.cut(kind), self.network.graph.weights)
        return self.sessions[kind]

    def cut(self, kind: str) -> Any:
        """The model that is cut for units of a kind."""
        network = self.network
        # What is not read is no output either: what is an output cannot be fused with what follows it.
        hidden = [network.readout.hidden.tensor] if network.readout and network.reads_hidden else []
        return cut(network.graph, self.ports(kind), network.inputs.ids, hidden)

    def read(self, ids: NDArray[np.int64], kind: str) -> list[FloatArray]:
        """For each group `[batch, seq, count, width]`, from one pass."""
        ports = self.ports(kind)
        found = self.run(Rows(ids, kind), [port.read for port in ports])
        return [
            values.reshape(*ids.shape, port.group.count, port.group.width).astype(np.float32)
            for port, values in zip(ports, found, strict=True)
        ]

    def states(self, ids: NDArray[np.int64], kind: str) -> Past:
        """Keys and values of some positions, `[batch, seq]`, for those that follow them."""
        names = self.network.states
        return dict(zip(names.values(), self.run(Rows(ids, kind), list(names)), strict=True))

    def last_logits(self, rows: Rows) -> FloatArray:
        """The model's own logits at the last position, `[batch, vocabulary]`."""
        # Picking the position inside the graph would take the unembedding's own integer kernel away.
        return self.run(rows, [self.network.logits or ""])[0][:, -1].astype(np.float32)

    def last_hidden(self, rows: Rows) -> FloatArray:
        """What the unembedding reads at the last position, `[batch, d_model]`."""
        assert self.network.readout is not None
        return self.run(rows, [self.network.readout.hidden.tensor])[0][:, -1].astype(np.float32)

    def probe(
        self, ids: NDArray[np.int64], kind: str = "head", edits: Mapping[int, Edit] | None = None
    ) -> NDArray[Any]:
        """What the model puts out, in its own type, one row of numbers a prompt."""
        found = self.run(Rows(ids, kind, edits or {}), self.network.outputs)
        return np.concatenate([part.reshape(len(ids), -1) for part in found], 1)


NOTHING: Edit = (np.zeros((1, 1, 1, 1), np.bool_), np.zeros((1, 1, 1, 1), np.float32))
"""Replaces nothing, whatever the shape."""


def run_session(
    session: Any, names: Sequence[str], feed: dict[str, Any], name: str, shape: tuple[int, ...]
) -> list[NDArray[Any]]:
    """What a session makes.

    Raises:
        ModelError: the library cannot run it.
    """
    try:
        found: list[NDArray[Any]] = session.run(list(names), feed)
    except Exception as error:  # its exceptions have no base class of their own
        rows, seq = shape
        raise ModelError(f"{name} cannot be run on {rows} prompts of {seq} tokens: {first_lines(error)}") from error
    return found
