"""The llama.cpp runtime: a GGUF file that llama.cpp runs, read and patched by the callback of its scheduler."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.activations import Activations, join
from circuitcheck.core.errors import ConfigurationError, ModelChangedError, ModelError, SiteError
from circuitcheck.core.metric import LOG_PROBABILITY, LOGIT_DIFFERENCE, Metric, as_metric
from circuitcheck.core.next_token import KEPT, NextToken
from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import Batch, Prompts
from circuitcheck.core.reading import Reading
from circuitcheck.core.runtime import Facts, Replaceable, Rounding, Runtime, Variation, Work
from circuitcheck.core.units import Layout
from circuitcheck.runtimes.llamacpp.gguf_weights import GGUFWeights, open_weights
from circuitcheck.runtimes.llamacpp.hook_proofs import prove_hooks, require_independent_rows
from circuitcheck.runtimes.llamacpp.kept_tensors import file_with, kept_maps, replaceable_maps
from circuitcheck.runtimes.llamacpp.row_passes import Passes, PatchedBlock

FloatArray = NDArray[np.float32]

PROBED = 8
"""Tokens of the run by which it is seen that a measurement left the model as it was."""

PROBE_ROWS = 3
"""Prompts that proofs run on."""


@dataclass(frozen=True)
class LlamaModel:
    """A GGUF file in llama.cpp.

    Attributes:
        facts: what it is.
        tokenizer: the Hugging Face tokenizer of the reference; text never goes through llama.cpp's own.
        weights: sizes and weights, read from the file.
        runs: kind of unit to what runs it for them; without units, any does.
        quantity: what is measured of a prompt.
        proven: (kind of unit, length of prompts) for which its hooks were proven; copies of this object share it.
    """

    facts: Facts
    tokenizer: Any
    weights: GGUFWeights
    runs: Mapping[str, Passes]
    quantity: Metric = LOGIT_DIFFERENCE
    proven: set[tuple[str, int]] = field(default_factory=set, compare=False, repr=False)

    @property
    def passes(self) -> Passes:
        """Runs it where no units are asked for, or heads."""
        return self.runs["head"]

    def measured_by(self, metric: str | Metric) -> LlamaModel:
        """The same model with another quantity.

        Raises:
            ConfigurationError: the metric is a Python function, which takes tensors of PyTorch.
        """
        if metric in (self.quantity, self.quantity.name):
            return self
        found = as_metric(metric)
        if found.function is not None:
            raise ConfigurationError(
                f"metric {found.name} is a function of a PyTorch model's output, and {self.facts.name} runs in "
                "llama.cpp; unpack it with --circuit-runtime=pytorch, or take a metric that has a name."
            )
        return replace(self, quantity=found)

    def probed(self, prompts: Prompts) -> LlamaModel:
        """The same model, one row at a time where rows that run side by side are not independent.

        Raises:
            ModelError: a prompt of the task is longer than the model has positions.
        """
        self._require_room(prompts)
        reason = require_independent_rows(self.passes, _probe_rows(prompts.batches()[0].clean))
        if not reason or self.facts.batch_size == 1:
            return self
        note = f"Measured one row at a time, because {reason}."
        facts = replace(self.facts, batch_size=1, notes=(*self.facts.notes, note))
        return replace(self, facts=facts, runs={kind: passes.limited(1) for kind, passes in self.runs.items()})

    def layout(self, kind: str) -> Layout:
        """Its units of a kind.

        Raises:
            SiteError: there is no such kind.
        """
        return self._run(kind).layout

    def narrowed(self, layout: Layout) -> LlamaModel:
        """The same model, of whose units of the layout's kind only those in it are seen.

        Raises:
            SiteError: it has no such units.
        """
        return replace(self, runs={**self.runs, layout.kind: self._run(layout.kind).narrowed(layout)})

    def reading(self, kind: str, tokens: Sequence[int], amplitudes: Sequence[float] | None = None) -> Reading:
        """How its units are read in logits: by the file's own weights, unpacked, whose products are linear."""
        return self.weights.reading(self.layout(kind), tokens)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """A block that leaves the model as it was.

        Raises:
            ModelChangedError: a short run gives other logits after the block than before.
        """
        ids = (np.arange(PROBED, dtype=np.int64) % self.passes.model.vocabulary)[None]
        before = self.passes.logits(ids)
        yield
        if not np.array_equal(before, self.passes.logits(ids), equal_nan=True):
            raise ModelChangedError(f"{self.facts.name}: the same run gives other logits after it was measured.")

    def prove(self, prompts: Prompts, kind: str) -> None:
        """Proves that units of a kind can be read and written; once for each kind and length of prompts.

        Raises:
            SiteError: lists every failure.
            ModelError: a prompt of the task is longer than the model has positions.
        """
        self._require_room(prompts)
        passes = self._run(kind)
        ids = _probe_rows(prompts.batches()[0].clean)[: self.facts.batch_size]
        if (kind, ids.shape[1]) not in self.proven:
            prove_hooks(passes, self.weights, ids)
            self.proven.add((kind, ids.shape[1]))

    def metric(self, prompts: Prompts, *, counterfactual: bool = False) -> NDArray[np.float32]:
        """M of every prompt, `[prompts]`; of counterfactuals with the clean prompt's answer and foil."""
        self._require_room(prompts)
        metric = np.empty(len(prompts), np.float32)
        for batch in prompts.batches():
            logits = self.passes.logits(batch.counterfactual if counterfactual else batch.clean)
            metric[_columns(prompts, batch)] = self._read(logits, batch)
        return metric

    def next_token(self, prompts: Prompts, tokens: NDArray[np.int32] | None = None) -> NextToken:
        """What comes next after every clean prompt; see `Runtime.next_token`."""
        count = len(prompts)
        kept = min(KEPT, self.passes.model.vocabulary) if tokens is None else tokens.shape[1]
        chosen, likeliest = np.empty((count, kept), np.int32), np.empty(count, np.int32)
        found = np.empty((count, kept), np.float32)
        for batch in prompts.batches():
            columns = _columns(prompts, batch)
            logits = _log_softmax(self.passes.logits(batch.clean))
            likeliest[columns] = logits.argmax(-1)
            chosen[columns] = np.argsort(-logits, -1, "stable")[:, :kept] if tokens is None else tokens[columns]
            found[columns] = np.take_along_axis(logits, chosen[columns].astype(np.int64), -1)
        return NextToken(chosen, found, likeliest)

    def metric_and_next_token(
        self, prompts: Prompts, tokens: NDArray[np.int32]
    ) -> tuple[NDArray[np.float32], NextToken | None]:
        """M of every clean prompt, `[prompts]`, and what comes next after it; see `Runtime.metric_and_next_token`."""
        return self.metric(prompts), self.next_token(prompts, tokens)

    def activations(self, prompts: Prompts, kind: str) -> Activations:
        """Values of all units on the clean prompts, all positions."""
        passes = self._run(kind)
        return _joined(((batch, passes.values(batch.clean)) for batch in prompts.batches()), passes.layout)

    def replacements(self, prompts: Prompts, patch: Patch) -> Activations:
        """What the patch puts into each unit, whichever units its sets name; positions as the patch has them."""
        return _joined(self._replacing(prompts, patch), self.layout(patch.kind))

    def patched(self, prompts: Prompts, patch: Patch, work: Work | None = None) -> NDArray[np.float32]:
        """M of every prompt under every set of the patch, `[sets, prompts]`.

        Positions before the first that any set changes are decoded once. What a set does to m is told from a clean
        run of the same shape, and counted from the m of the clean prompt.

        Raises:
            MemoryBudgetError: one row alone does not fit the budget.
        """
        work = work or Work()
        metric = np.empty((len(patch.sets), len(prompts)), np.float32)
        for batch, values in self._replacing(prompts, patch):
            clean = self._read(self.passes.logits(batch.clean), batch)
            columns = np.array(_columns(prompts, batch))
            for rows, start in self._blocks(batch, patch, values, work.memory):
                block = PatchedBlock(batch.clean[rows], patch.sets, [value[rows] for value in values], start)
                part = replace(batch, answer=batch.answer[rows], foil=batch.foil[rows])
                base = np.zeros(len(rows), np.float32)
                for number, logits in self._run(patch.kind).patched(block, work.memory, work.advance):
                    found = self._read(logits, part)
                    if number == 0:
                        base = found - clean[rows]
                    else:
                        metric[number - 1, columns[rows]] = found - base
        return metric

    def gradient(
        self,
        prompts: Prompts,
        kind: str,
        at: Activations | None = None,
        *,
        held: bool = False,
        work: Work | None = None,
    ) -> tuple[NDArray[np.float32], Activations]:
        """Never: gradients are the reference's.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(f"{self.facts.name} runs in llama.cpp, which gives no gradients: it is no reference.")

    def variations(
        self, prompts: Prompts | None = None, reload: Callable[[], Runtime] | None = None
    ) -> Sequence[Variation]:
        """None: the noise floor is the reference's."""
        return ()

    def roundings(self, prompts: Prompts | None = None) -> Sequence[Rounding]:
        """None: it is no reference."""
        return ()

    def replaceable(self, reference: Any) -> Replaceable:
        """Linear maps inside its layers that differ from the reference's, for a keep list.

        Raises:
            CandidateError: there are none.
        """
        return replaceable_maps(reference, self.weights)

    @contextmanager
    def keeping(self, reference: Any, modules: Sequence[str]) -> Iterator[LlamaModel]:
        """The file with the reference's linear maps in some places, for as long as the block runs."""
        maps = kept_maps(reference, self.weights)
        with file_with(self.weights.file, {maps[path].tensor: maps[path].matrix for path in modules}) as file:
            yield self.reloaded(file)

    def reloaded(self, file: Path) -> LlamaModel:
        """Another file of the same sizes, run in the same way."""
        weights = open_weights(file, self.weights.name)
        loaded = self.passes.model.sibling(file)
        runs = {kind: passes.of(loaded) for kind, passes in self.runs.items()}
        return replace(self, weights=weights, runs=runs, proven=set())

    def _run(self, kind: str) -> Passes:
        if kind not in self.runs:
            raise SiteError(
                f"{self.facts.name}: units of a GGUF file in llama.cpp are {', '.join(self.runs)}, not {kind!r}; "
                "unpack it with --circuit-runtime=pytorch."
            )
        return self.runs[kind]

    def _require_room(self, prompts: Prompts) -> None:
        room, longest = self.weights.positions, prompts.task.longest
        if room is not None and longest > room:
            raise ModelError(
                f"{self.facts.name} has {room} positions, and the task has a prompt of {longest} tokens: use shorter "
                "prompts."
            )

    def _read(self, logits: FloatArray, batch: Batch) -> FloatArray:
        """M from the model's own logits `[rows, vocabulary]`."""
        row = np.arange(len(logits))
        if self.quantity.name == LOG_PROBABILITY.name:
            return _log_softmax(logits)[row, batch.answer].astype(np.float32)
        return logits[row, batch.answer] - logits[row, batch.foil]

    def _blocks(
        self, batch: Batch, patch: Patch, values: Sequence[FloatArray], memory: int | None
    ) -> Iterator[tuple[NDArray[np.intp], int]]:
        """Prompts that run together, and the first position at which a set may change anything."""
        starts = patch.starts(batch, values[0].shape[1])
        size = self._run(patch.kind).rows_at_once(batch.clean.shape[1], memory)
        for start in np.unique(starts):
            rows = np.flatnonzero(starts == start)
            for at in range(0, len(rows), size):
                yield rows[at : at + size], int(start)

    def _replacing(self, prompts: Prompts, patch: Patch) -> Iterator[tuple[Batch, list[FloatArray]]]:
        """Each batch with what stands in for its units, for each group `[batch, positions, count, width]`."""
        passes = self._run(patch.kind)
        means = self._means(prompts, passes) if patch.values == "mean" and len(prompts) else []
        for batch in prompts.batches():
            seq = batch.clean.shape[1]
            positions = 1 if patch.positions == "answer" else seq
            if isinstance(patch.values, Activations):
                yield batch, patch.values.rows(batch.index)
                continue
            if patch.values == "resample":
                values = passes.values(batch.counterfactual)
            elif patch.values == "mean":
                values = [np.broadcast_to(mean[-seq:], (len(batch.index), seq, *mean.shape[1:])) for mean in means]
            else:
                shape = (len(batch.index), seq)
                values = [np.zeros((*shape, group.count, group.width), np.float32) for group in passes.layout.groups]
            yield batch, [value[:, -positions:] for value in values]

    def _means(self, prompts: Prompts, passes: Passes) -> list[FloatArray]:
        """Over the whole task's clean and counterfactual prompts, for each group `[longest seq, count, width]`."""
        task = prompts.task
        totals = [np.zeros((task.longest, group.count, group.width), np.float64) for group in passes.layout.groups]
        counts = np.zeros((task.longest, 1, 1))
        for batch in task.prompts().batches():
            for ids in (batch.clean, batch.counterfactual):
                counts[-ids.shape[1] :] += len(ids)
                for total, values in zip(totals, passes.values(ids), strict=True):
                    total[-ids.shape[1] :] += values.sum(0, dtype=np.float64)
        return [(total / counts).astype(np.float32) for total in totals]


def _probe_rows(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Three different prompts; where there are fewer, the first one turned around."""
    return np.stack([np.roll(ids[number % len(ids)], number // len(ids)) for number in range(PROBE_ROWS)])


def _columns(prompts: Prompts, batch: Batch) -> list[int]:
    return [prompts.columns[place] for place in batch.index]


def _joined(parts: Any, layout: Layout) -> Activations:
    rows = {
        place: [group[number] for group in groups]
        for batch, groups in parts
        for number, place in enumerate(batch.index)
    }
    return join(rows, layout)


def _log_softmax(logits: FloatArray) -> NDArray[np.float64]:
    double = logits.astype(np.float64)
    shifted = double - double.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
