"""The PyTorch runtime: a model of transformers, read and patched by hooks on its own code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.activations import Activations
from circuitcheck.core.features import StreamBasis
from circuitcheck.core.metric import Metric, as_metric
from circuitcheck.core.next_token import NextToken
from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import Prompts
from circuitcheck.core.reading import Reading
from circuitcheck.core.routes import Routes
from circuitcheck.core.runtime import Facts, Part, Replaceable, Rounding, Runtime, Variation, Work
from circuitcheck.core.units import Layout
from circuitcheck.dictionaries.dictionary import Dictionary
from circuitcheck.runtimes.pytorch import FEATURE
from circuitcheck.runtimes.pytorch.batching import needs_probe, with_batching
from circuitcheck.runtimes.pytorch.engine.clean_pass import refused_as_model_errors
from circuitcheck.runtimes.pytorch.engine.dividing import parts_of
from circuitcheck.runtimes.pytorch.engine.passes import (
    clean_activations,
    clean_metric,
    clean_routes,
    collect,
    metric_and_next_token,
    next_token,
    rows_of,
    unit_gradient,
)
from circuitcheck.runtimes.pytorch.engine.sweep import Engine, batch_metric, replacements
from circuitcheck.runtimes.pytorch.environment import environment
from circuitcheck.runtimes.pytorch.feature_basis import on_task, read_like, stream_basis
from circuitcheck.runtimes.pytorch.offload import is_offloaded
from circuitcheck.runtimes.pytorch.ports.hook_points import require_fit
from circuitcheck.runtimes.pytorch.ports.latents import Latents
from circuitcheck.runtimes.pytorch.ports.ports import layout_of
from circuitcheck.runtimes.pytorch.ports.proofs import PROBE_PROMPTS, float_matrix, prove
from circuitcheck.runtimes.pytorch.ports.room import require_room
from circuitcheck.runtimes.pytorch.roundings import WAYS, rounded
from circuitcheck.runtimes.pytorch.torch_model import TorchModel
from circuitcheck.runtimes.pytorch.transplant import kept_modules, replaceable
from circuitcheck.runtimes.pytorch.unchanged import unchanged
from circuitcheck.runtimes.pytorch.variations import all_variations, usual_variations
from circuitcheck.runtimes.pytorch.wide_products import with_wide_products
from circuitcheck.runtimes.pytorch.write_maps import reading_of

OF_PROCESS = ("module", "tokenizer", "proven")
"""What of a model is not sent to another process."""


class HookedModel(TorchModel):
    """A model as it is shipped, that the gate can measure; see `TorchModel` for what it holds."""

    @property
    def facts(self) -> Facts:
        """What it is, as far as that can be told without running it."""
        first = self.structure.layers[0]
        return Facts(
            name=self.name,
            precision=self.precision,
            architecture={
                "class": type(self.module).__name__,
                "n_layers": len(self.structure.layers),
                "n_heads": first.n_heads,
                "d_head": first.d_head,
            },
            fingerprints=self.fingerprints,
            environment=environment(self.device),
            census=self.census,
            vocabulary=self._vocabulary,
            batch_size=self.batch_size,
            notes=self.notes,
        )

    @property
    def _vocabulary(self) -> int | None:
        """Rows of the token embedding; what the config says where it cannot be seen."""
        path = self.structure.embedding
        rows = getattr(self.module.get_submodule(path), "num_embeddings", None) if path else None
        return rows or getattr(getattr(self.module, "config", None), "vocab_size", None)

    def measured_by(self, metric: str | Metric) -> HookedModel:
        """The same model with another quantity; a function that it was hooked with stays if that is its name.

        Raises:
            ConfigurationError: the name is a function's that is not known here; nothing is imported for a name.
        """
        return self if metric in (self.quantity, self.quantity.name) else replace(self, quantity=as_metric(metric))

    def probed(self, prompts: Prompts) -> HookedModel:
        """The same model, with the products and the batch size that its kernels need.

        Plain float32 needs neither: batches of another size only sum in another order.

        Raises:
            ModelError: a prompt of the task is longer than the model has positions.
        """
        require_room(self, prompts.task.longest)
        ids = rows_of(self, prompts.batches()[0]).ids
        with unchanged(self), refused_as_model_errors(self, ids.shape):
            model = with_wide_products(self, ids)
        if not needs_probe(model):
            return model
        with unchanged(model), refused_as_model_errors(model, ids.shape):
            return with_batching(model, ids)

    def layout(self, kind: str) -> Layout:
        """Its units of a kind.

        Raises:
            SiteError: it has none that can be found.
        """
        return layout_of(self.ports(kind), kind)

    def with_dictionaries(self, dictionaries: Sequence[Dictionary]) -> HookedModel:
        """The same model with features: the latents of dictionaries at its hook points.

        Args:
            dictionaries: one for each hook point, as `read_dictionaries` gives them.

        Raises:
            DictionaryError: they do not fit it; lists every reason.
        """
        require_fit(self.module, self.structure, dictionaries)
        return replace(self, latents=tuple(Latents.of(one, self.device) for one in dictionaries), dictionaries=())

    def on_task(self, prompts: Prompts, kind: str) -> HookedModel:
        """The same model, of whose features those are seen that are active on a task; see `ReadsFeatures`.

        Raises:
            DictionaryError: none is.
        """
        return on_task(self, prompts) if kind == FEATURE else self

    def read_like(self, prompts: Prompts, layout: Layout, reading: Reading, basis: StreamBasis | None) -> HookedModel:
        """The same model, read as a reference was, in the reference's basis; see `ReadsFeatures`.

        Raises:
            CandidateError: its stream is kept in another basis, and no map to the reference's can be proven.
        """
        return read_like(self, prompts, layout, reading, basis) if layout.kind == FEATURE else self

    def stream_basis(self, kind: str) -> StreamBasis | None:
        """Rows of the token embedding; see `ReadsFeatures`."""
        return stream_basis(self) if kind == FEATURE else None

    def reading(self, kind: str, tokens: Sequence[int], amplitudes: Sequence[float] | None = None) -> Reading:
        """How its units are read in logits at some tokens; see `Runtime.reading`."""
        ports = self.ports(kind)
        return reading_of(self, ports, tokens, amplitudes or [1.0] * len(ports))

    def unchanged(self) -> AbstractContextManager[None]:
        """A block in evaluation mode that leaves the model as it was.

        Raises:
            ModelChangedError: on the way out, where it does not.
        """
        return unchanged(self)

    def prove(self, prompts: Prompts, kind: str) -> None:
        """Proves that units of a kind can be read and written; once for each kind, length of prompts and metric.

        Raises:
            SiteError: lists every failure.
            ModelError: a prompt of the task is longer than the model has positions.
        """
        require_room(self, prompts.task.longest)
        ids = rows_of(self, prompts.batches()[0]).ids[: self.at_most(PROBE_PROMPTS)]
        proven = self.proven_here.hooks
        units = " ".join([kind, *(self.fingerprints_of_dictionaries.values() if kind == FEATURE else ())])
        if (what := (units, ids.shape[1], self.quantity.name)) not in proven:
            prove(self, ids, kind)
            proven.add(what)

    def metric(self, prompts: Prompts, *, counterfactual: bool = False) -> NDArray[np.float32]:
        """M of every prompt, `[prompts]`; of counterfactuals with the clean prompt's answer and foil."""
        require_room(self, prompts.task.longest)
        return clean_metric(self, prompts, counterfactual=counterfactual)

    def next_token(self, prompts: Prompts, tokens: NDArray[np.int32] | None = None) -> NextToken | None:
        """What comes next after every clean prompt; see `Runtime.next_token`."""
        return next_token(self, prompts, tokens)

    def metric_and_next_token(
        self, prompts: Prompts, tokens: NDArray[np.int32]
    ) -> tuple[NDArray[np.float32], NextToken | None]:
        """M of every clean prompt, `[prompts]`, and what comes next after it, from the same passes."""
        require_room(self, prompts.task.longest)
        return metric_and_next_token(self, prompts, tokens)

    def activations(self, prompts: Prompts, kind: str) -> Activations:
        """Values of all units on the clean prompts, all positions."""
        return clean_activations(self, prompts, self.ports(kind))

    def routes(self, prompts: Prompts) -> tuple[Routes, ...]:
        """Which experts its routers choose, of mixtures whose experts are kept in stacks; see `RoutesTokens`."""
        return clean_routes(self, prompts)

    def replacements(self, prompts: Prompts, patch: Patch) -> Activations:
        """What the patch puts into each unit, whichever units its sets name; positions as the patch has them."""
        return collect(replacements(self, prompts, patch), self.ports(patch.kind))

    def patched(
        self, prompts: Prompts, patch: Patch, work: Work | None = None, *, engine: Engine = "replay"
    ) -> NDArray[np.float32]:
        """M of every prompt under every set of the patch, `[sets, prompts]`.

        Args:
            prompts: the prompts.
            patch: which units get which values.
            work: budget, progress and notes.
            engine: `replay` runs only what follows an intervention, after it proved that it may; `full` runs
                everything.

        Raises:
            MemoryBudgetError: one prompt under one set of units alone does not fit the budget or the machine.
        """
        metric = np.empty((len(patch.sets), len(prompts)), np.float32)
        ports = self.ports(patch.kind)
        for batch, values in replacements(self, prompts, patch):
            columns = [prompts.columns[place] for place in batch.index]
            rows = rows_of(self, batch)
            alike = batch.alike if patch.values == "resample" else 0
            metric[:, columns] = batch_metric(self, ports, rows, values, patch.sets, work or Work(), engine, alike)
        return metric

    def parts(self, prompts: Prompts, patch: Patch) -> list[Part]:
        """A patch in parts that give the numbers of all at once; see `Divides`."""
        return parts_of(self, prompts, patch)

    def state(self) -> dict[str, Any]:
        """All that it is beside its weights; see `Portable`."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in OF_PROCESS}

    def with_state(self, state: Mapping[str, Any]) -> HookedModel:
        """The same weights, as what they were in another process."""
        return replace(self, **state)

    def gradient(
        self,
        prompts: Prompts,
        kind: str,
        at: Activations | None = None,
        *,
        held: bool = False,
        work: Work | None = None,
    ) -> tuple[NDArray[np.float32], Activations]:
        """M of every prompt and its gradient by every unit; see `Runtime.gradient`.

        Raises:
            ConfigurationError: the metric cannot be differentiated.
        """
        return unit_gradient(
            self, prompts, self.ports(kind), at, held=held, memory=None if work is None else work.memory
        )

    def variations(
        self, prompts: Prompts | None = None, reload: Callable[[], Runtime] | None = None
    ) -> Sequence[Variation]:
        """Ways to compute the same thing: one of each kind or, for a calibration on some prompts, all of them."""
        return usual_variations(self) if prompts is None else all_variations(self, len(prompts), reload)

    def roundings(self, prompts: Prompts | None = None) -> Sequence[Rounding]:
        """Ways to round it plainly, by precision; each makes a copy of the module in memory.

        None of a model whose weights are not all in memory, because a rounded copy of them would have to be.
        """
        if is_offloaded(self.module):
            return []
        ids = [] if prompts is None else [rows_of(self, batch).ids for batch in prompts.batches(self.at_most(None))]
        ways = [way for way in WAYS if ids or not way.is_calibrated]
        return [Rounding(way.precision, way.name, partial(rounded, self, way, ids)) for way in ways]

    def replaceable(self, reference: TorchModel) -> Replaceable:
        """Linear maps inside its layers that differ from the reference's, for a keep list.

        Raises:
            CandidateError: there are none.
        """
        return replaceable(reference, self)

    @property
    def output_map(self) -> str | None:
        """Path of its unembedding; None for a model without one."""
        return self.structure.output_layer

    def float_maps(self) -> list[dict[str, NDArray[np.float32]]]:
        """For each layer, path to the matrix `[in, out]` of every plain linear map, for other runtimes to put in."""
        layers = []
        for site in self.structure.layers:
            parts = self.module.get_submodule(site.path).named_modules(prefix=site.path)
            found = {path: float_matrix(part) for path, part in parts}
            layers.append({path: matrix.float().cpu().numpy() for path, matrix in found.items() if matrix is not None})
        return layers

    def keeping(self, reference: TorchModel, modules: Sequence[str]) -> AbstractContextManager[HookedModel]:
        """The model with the reference's modules in some places, for as long as the block runs."""
        return kept_modules(reference, self, modules)
