"""The ONNX Runtime runtime: a file as it was shipped, cut once, and executed by the kernels that its users run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.activations import Activations, join
from circuitcheck.core.errors import ConfigurationError, ModelChangedError, SiteError
from circuitcheck.core.metric import LOGIT_DIFFERENCE, Metric, as_metric
from circuitcheck.core.next_token import KEPT, NextToken
from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import Prompts
from circuitcheck.core.reading import Reading
from circuitcheck.core.runtime import Facts, Replaceable, Rounding, Runtime, Variation, Work
from circuitcheck.core.units import Layout
from circuitcheck.runtimes.onnx.cut_proofs import prove
from circuitcheck.runtimes.onnx.earlier_positions import most_behind
from circuitcheck.runtimes.onnx.head_reading import reading_of
from circuitcheck.runtimes.onnx.keeping import WithMaps, keeping, replaceable
from circuitcheck.runtimes.onnx.metrics import log_softmax, metric_of
from circuitcheck.runtimes.onnx.patching import patched_metric, replacements
from circuitcheck.runtimes.onnx.row_company import with_batching
from circuitcheck.runtimes.onnx.runner import Rows, Runner

LOOKED_AT = np.zeros((1, 4), np.int64)
"""Token ids of the prompt whose logits are the same before and after a measurement."""


@dataclass(frozen=True)
class OnnxModel:
    """A model that ONNX Runtime executes.

    Attributes:
        runner: the cut graph, and what is known of it.
        facts: what it is.
        tokenizer: its Hugging Face tokenizer, or None for tasks in token ids.
        quantity: what is measured of a prompt.
        behind: how many last positions may be run behind keys and values of those that no patch changes.
        proven: (kind of unit, length of prompts, metric) for which its cut was proven; copies share it.
    """

    runner: Runner
    facts: Facts
    tokenizer: Any = None
    quantity: Metric = LOGIT_DIFFERENCE
    behind: int = 0
    proven: set[tuple[str, int, str]] = field(default_factory=set, compare=False, repr=False)

    def measured_by(self, metric: str | Metric) -> OnnxModel:
        """The same model with another quantity; nothing is imported for a name.

        Raises:
            ConfigurationError: the name is a function's that is not known here.
        """
        return self if metric in (self.quantity, self.quantity.name) else replace(self, quantity=as_metric(metric))

    def probed(self, prompts: Prompts) -> OnnxModel:
        """The same model, with the batch size that its kernels need, and with a past where it changes nothing."""
        ids = prompts.batches()[0].clean
        facts = with_batching(self.runner, self.facts, ids)
        return replace(self, facts=facts, behind=most_behind(self.runner, facts, ids))

    def layout(self, kind: str) -> Layout:
        """Its units of a kind.

        Raises:
            SiteError: it has none that can be found.
        """
        return Layout(kind, tuple(port.group for port in self.runner.ports(kind)))

    def narrowed(self, layout: Layout) -> OnnxModel:
        """The same model; all of its units are seen.

        Raises:
            SiteError: only some of its units, or others, are asked for.
        """
        if layout != self.layout(layout.kind):
            raise SiteError(f"{self.facts.name} runs in ONNX Runtime, where all {layout.kind}s are measured, not some.")
        return self

    def reading(self, kind: str, tokens: Sequence[int], amplitudes: Sequence[float] | None = None) -> Reading:
        """How its units are read in logits at some tokens, from the weights that the file holds.

        Raises:
            SiteError: it has none of that kind, or what stands in front of its logits is not understood.
        """
        del amplitudes  # no map has to be told by what it does
        self.runner.ports(kind)
        return reading_of(self.runner.network, kind, tokens)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """A block that leaves the model as it was: the same prompt gives the same bits before and after it.

        Raises:
            ModelChangedError: on the way out, where it does not.
        """
        before = self.runner.probe(LOOKED_AT)
        yield
        if not np.array_equal(before, self.runner.probe(LOOKED_AT), equal_nan=True):
            raise ModelChangedError(f"{self.facts.name}: the same prompt gives other logits after it was measured")

    def prove(self, prompts: Prompts, kind: str) -> None:
        """Proves that units of a kind can be read and written; once for each kind, length of prompts and metric.

        Raises:
            SiteError: lists every failure.
        """
        ids = prompts.batches()[0].clean
        if (what := (kind, ids.shape[1], self.quantity.name)) not in self.proven:
            prove(self.runner, self.facts, self.quantity, ids, kind)
            self.proven.add(what)

    def metric(self, prompts: Prompts, *, counterfactual: bool = False) -> NDArray[np.float32]:
        """M of every prompt, `[prompts]`; of counterfactuals with the clean prompt's answer and foil."""
        found = np.empty(len(prompts), np.float32)
        for batch in prompts.batches(self._rows(prompts)):
            ids = batch.counterfactual if counterfactual else batch.clean
            columns = [prompts.columns[place] for place in batch.index]
            found[columns] = metric_of(self.runner, self.quantity, Rows(ids), batch.answer, batch.foil)
        return found

    def next_token(self, prompts: Prompts, tokens: NDArray[np.int32] | None = None) -> NextToken | None:
        """What comes next after every clean prompt; see `Runtime.next_token`."""
        if self.runner.network.logits is None:
            return None
        size = self.runner.network.vocabulary or 0
        kept = min(KEPT, size) if tokens is None else tokens.shape[1]
        chosen, said = np.empty((len(prompts), kept), np.int32), np.empty((len(prompts), kept), np.float32)
        likeliest = np.empty(len(prompts), np.int32)
        for batch in prompts.batches(self._rows(prompts)):
            columns = [prompts.columns[place] for place in batch.index]
            logits = log_softmax(self.runner.last_logits(Rows(batch.clean)))
            chosen[columns] = np.argsort(-logits, 1, "stable")[:, :kept] if tokens is None else tokens[columns]
            said[columns] = np.take_along_axis(logits, chosen[columns].astype(np.int64), 1)
            likeliest[columns] = logits.argmax(1)
        return NextToken(chosen, said, likeliest)

    def metric_and_next_token(
        self, prompts: Prompts, tokens: NDArray[np.int32]
    ) -> tuple[NDArray[np.float32], NextToken | None]:
        """M of every clean prompt, `[prompts]`, and what comes next after it; see `Runtime.metric_and_next_token`."""
        return self.metric(prompts), self.next_token(prompts, tokens)

    def activations(self, prompts: Prompts, kind: str) -> Activations:
        """Values of all units on the clean prompts, all positions."""
        rows: dict[int, list[NDArray[np.float32]]] = {}
        for batch in prompts.batches(self._rows(prompts)):
            values = self.runner.read(batch.clean, kind)
            rows |= {place: [value[row] for value in values] for row, place in enumerate(batch.index)}
        return join(rows, self.layout(kind))

    def replacements(self, prompts: Prompts, patch: Patch) -> Activations:
        """What the patch puts into each unit, whichever units its sets name; positions as the patch has them."""
        rows = {
            place: [np.array(value[row]) for value in values]
            for batch, values in replacements(self.runner, prompts, patch, self._rows(prompts))
            for row, place in enumerate(batch.index)
        }
        return join(rows, self.layout(patch.kind))

    def patched(self, prompts: Prompts, patch: Patch, work: Work | None = None) -> NDArray[np.float32]:
        """M of every prompt under every set of the patch, `[sets, prompts]`.

        Raises:
            MemoryBudgetError: one prompt under one set of units alone does not fit the budget.
        """
        # A function of the whole output is written for all positions.
        behind = self.behind if self.quantity.function is None else 0
        rows = self.facts.batch_size
        return patched_metric(self.runner, self.quantity, prompts, patch, work or Work(), rows, behind)

    def gradient(
        self,
        prompts: Prompts,
        kind: str,
        at: Activations | None = None,
        *,
        held: bool = False,
        work: Work | None = None,
    ) -> tuple[NDArray[np.float32], Activations]:
        """None: gradients are the reference's.

        Raises:
            ConfigurationError: always.
        """
        del prompts, kind, at, held, work
        raise ConfigurationError(
            f"{self.facts.name} runs in ONNX Runtime, which has no gradients; record the reference from the model in "
            "PyTorch that it was made from."
        )

    def variations(
        self, prompts: Prompts | None = None, reload: Callable[[], Runtime] | None = None
    ) -> Sequence[Variation]:
        """Ways to compute the same thing; of references there are more."""
        del prompts, reload
        return [Variation("one prompt a batch", most=1)]

    def roundings(self, prompts: Prompts | None = None) -> Sequence[Rounding]:
        """None: they are the reference's."""
        del prompts
        return ()

    def replaceable(self, reference: WithMaps) -> Replaceable:
        """Products inside its layers that are the reference's linear maps with other numbers, for a keep list.

        Raises:
            CandidateError: there are none.
        """
        return replaceable(self.runner.network, reference, self.facts.name)[0]

    @contextmanager
    def keeping(self, reference: WithMaps, modules: Sequence[str]) -> Iterator[OnnxModel]:
        """The model with the reference's matrices in some places, multiplied in floats, as long as the block runs."""
        network = self.runner.network
        matched = replaceable(network, reference, self.facts.name)[1]
        kept = {path: matched[path] for path in modules}
        mended = keeping(network, kept, reference.float_maps(), self.facts.name) if kept else network
        # What was proven of the candidate's own products is not proven of these.
        yield replace(self, runner=Runner(mended, self.facts.name), behind=0, proven=set())

    def _rows(self, prompts: Prompts) -> int:
        longest = max((len(prompts.task.pairs[place].clean) for place in prompts.index), default=1)
        return self.runner.rows(longest, None, self.facts.batch_size)
