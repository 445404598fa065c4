"""What the gate asks of a model, reference or candidate, whatever executes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.activations import Activations
from circuitcheck.core.census import Census
from circuitcheck.core.metric import Metric
from circuitcheck.core.next_token import NextToken
from circuitcheck.core.patch import Patch
from circuitcheck.core.progress import Advance, silent
from circuitcheck.core.prompts import Prompts
from circuitcheck.core.reading import Reading
from circuitcheck.core.units import Layout

Patched = Callable[[Prompts, Patch, "Work"], NDArray[np.float32]]
"""`Runtime.patched` of some model."""

Execute = Callable[["Runtime", Prompts, Patch, "Work"], NDArray[np.float32]]
"""Carries out a patch on a model in another way than all at once: gives what `Runtime.patched` would."""


@dataclass(frozen=True)
class Work:
    """How a measurement is carried out.

    Attributes:
        memory: budget in bytes for what a sweep keeps beside the model; by default a share of what is free.
        advance: is told of progress.
        notes: gets what a reader of the report must know of how the model was run, each thing once.
        execute: carries out patches; by default the model does, all at once.
        about: what the numbers depend on that the model's facts do not say, each by its name: how it was rounded, what
            is varied, which reference it is held against.
    """

    memory: int | None = None
    advance: Advance = silent
    notes: list[str] = field(default_factory=list)
    execute: Execute | None = None
    about: Mapping[str, str] = field(default_factory=dict)

    def patching(self, model: Runtime) -> Patched:
        """What carries out patches on a model."""
        return model.patched if self.execute is None else partial(self.execute, model)

    def beside(self, **about: str) -> Work:
        """The same with notes of its own, of numbers that depend on more."""
        return Work(self.memory, self.advance, execute=self.execute, about={**self.about, **about})


@dataclass(frozen=True)
class Facts:
    """What a model is, as far as it can be told without running it.

    Attributes:
        name: how reports call it.
        precision: whose limits on drift apply to it; `f32` for a reference.
        architecture: what must agree between a reference and a candidate for their units to be comparable.
        fingerprints: SHA-256 of `weights` and `tokenizer`.
        environment: what executes it, in which version, on which device and instruction set.
        census: what its weights were really loaded as; None where nobody looked.
        vocabulary: how many token ids it knows; None where that cannot be seen.
        batch_size: the most rows in one forward pass; None where there is no limit.
        notes: what a reader of the report must know about how it was loaded.
    """

    name: str
    precision: str
    architecture: dict[str, Any]
    fingerprints: dict[str, str]
    environment: dict[str, Any]
    census: Census | None = None
    vocabulary: int | None = None
    batch_size: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Replaceable:
    """Linear maps of a candidate that differ from the reference's.

    Attributes:
        layers: for each layer, module paths.
        output_layer: path of the unembedding; None for a model without one.
        blocks: label of each layer's attention and MLP, as units of the kind `block` have it, to module paths.
        tensors: module path to what llama.cpp calls its weights; without those whose names are not known.
        nodes: module path to what the name or the metadata of its nodes in an exported ONNX graph holds.
    """

    layers: tuple[tuple[str, ...], ...]
    output_layer: str | None
    blocks: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False)
    tensors: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False)
    nodes: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False)

    @property
    def modules(self) -> tuple[str, ...]:
        """All of them, layer by layer."""
        return tuple(path for layer in self.layers for path in layer)


class Runtime(Protocol):
    """A model that can be read and patched. Arrays are float32 unless said otherwise.

    Every method that runs the model raises `MemoryBudgetError` where one prompt alone does not fit.
    """

    @property
    def facts(self) -> Facts:
        """What it is."""

    @property
    def tokenizer(self) -> Any:
        """Its Hugging Face tokenizer, or None for tasks in token ids."""

    @property
    def quantity(self) -> Metric:
        """What is measured of a prompt."""

    def measured_by(self, metric: str | Metric) -> Runtime:
        """The same model with another quantity.

        Raises:
            ConfigurationError: the metric is a function that is not known here.
        """

    def probed(self, prompts: Prompts) -> Runtime:
        """The same model, with the batch size that its kernels need."""

    def layout(self, kind: str) -> Layout:
        """Its units of a kind.

        Raises:
            SiteError: it has none that can be found.
        """

    def narrowed(self, layout: Layout) -> Runtime:
        """The same model, of whose units of the layout's kind only those in it are seen.

        Args:
            layout: all units of a kind, as `layout` gives them, or some of them.

        Raises:
            SiteError: it has no such units.
        """

    def reading(self, kind: str, tokens: Sequence[int], amplitudes: Sequence[float] | None = None) -> Reading:
        """How its units are read in logits.

        Args:
            kind: of the units.
            tokens: rows of the unembedding, by token id.
            amplitudes: for each group how large its values are, for maps that can only be told by what they do.
        """

    def unchanged(self) -> AbstractContextManager[None]:
        """A block that leaves the model as it was.

        Raises:
            ModelChangedError: on the way out, where it does not.
        """

    def prove(self, prompts: Prompts, kind: str) -> None:
        """Proves that units of a kind can be read and written; once for each kind, length of prompts and metric.

        Raises:
            SiteError: lists every failure.
            ModelError: a prompt of the task is longer than the model has positions.
        """

    def metric(self, prompts: Prompts, *, counterfactual: bool = False) -> NDArray[np.float32]:
        """M of every prompt, `[prompts]`; of counterfactuals with the clean prompt's answer and foil."""

    def next_token(self, prompts: Prompts, tokens: NDArray[np.int32] | None = None) -> NextToken | None:
        """What comes next after every clean prompt; None of a model that predicts no tokens.

        Args:
            prompts: the prompts.
            tokens: whose probabilities are asked for, `[prompts, kept]`; by default those that it finds likeliest.
        """

    def metric_and_next_token(
        self, prompts: Prompts, tokens: NDArray[np.int32]
    ) -> tuple[NDArray[np.float32], NextToken | None]:
        """What `metric` and `next_token` say of clean prompts, from the same passes where that can be."""

    def activations(self, prompts: Prompts, kind: str) -> Activations:
        """Values of all units on the clean prompts, all positions."""

    def replacements(self, prompts: Prompts, patch: Patch) -> Activations:
        """What the patch puts into each unit, whichever units its sets name; positions as the patch has them."""

    def patched(self, prompts: Prompts, patch: Patch, work: Work) -> NDArray[np.float32]:
        """M of every prompt under every set of the patch, `[sets, prompts]`."""

    def gradient(
        self,
        prompts: Prompts,
        kind: str,
        at: Activations | None = None,
        *,
        held: bool = False,
        work: Work | None = None,
    ) -> tuple[NDArray[np.float32], Activations]:
        """M of every prompt, `[prompts]`, and its gradient with respect to every unit, all positions. References only.

        Args:
            prompts: the prompts.
            kind: of the units.
            at: values that the units have, at as many last positions as they are of; their own by default.
            held: whether all other units keep their values while one is moved. By default the gradient is total: it
                includes what a unit does to later ones, as in attribution patching (Syed et al. 2023,
                arXiv:2310.10348).
            work: budget.

        Raises:
            ConfigurationError: the metric cannot be differentiated.
        """

    def variations(
        self, prompts: Prompts | None = None, reload: Callable[[], Runtime] | None = None
    ) -> Sequence[Variation]:
        """Ways to compute the same thing: one of each kind or, for a calibration on some prompts, all of them."""

    def roundings(self, prompts: Prompts | None = None) -> Sequence[Rounding]:
        """Ways to round it plainly: what a precision alone does to a model. References only.

        Args:
            prompts: of whose clean ones the range is seen that fixed scales of activations need; such ways are left
                out where there are none.
        """


@dataclass(frozen=True)
class Part:
    """Some rows of a patch: every one of some prompts under every one of some of its sets.

    Attributes:
        prompts: the prompts.
        sets: numbers of the sets.
        cost: about how many products of two numbers it takes; 0 where nobody knows.
    """

    prompts: Prompts
    sets: tuple[int, ...]
    cost: float = 0.0

    def of(self, patch: Patch) -> Patch:
        """The patch with these sets alone."""
        return Patch(patch.kind, tuple(patch.sets[number] for number in self.sets), patch.values, patch.positions)


@runtime_checkable
class Divides(Protocol):
    """A runtime whose patches can be carried out in parts, with the numbers of all at once, bit for bit."""

    def parts(self, prompts: Prompts, patch: Patch) -> Sequence[Part]:
        """All rows of a patch, each in one of as many parts as there can be, those of the same prompts together."""


@runtime_checkable
class Portable(Protocol):
    """A runtime that another process, which has loaded the same weights, can make its own."""

    @property
    def quantity(self) -> Metric:
        """What is measured of a prompt."""

    def state(self) -> Mapping[str, Any]:
        """All that it is beside its weights, as plain data."""

    def with_state(self, state: Mapping[str, Any]) -> Runtime:
        """The same weights as something else that they were elsewhere."""


@dataclass(frozen=True)
class Rounding:
    """One way to round a reference to a precision, by nobody's special care.

    Attributes:
        precision: whose candidates it stands for, such as `4-bit`.
        name: how it rounds, within that precision.
        make: gives the rounded copy, whose `precision` is the same; raises `CircuitcheckError` where it cannot be made.
    """

    precision: str
    name: str
    make: Callable[[], Runtime]


@dataclass(frozen=True)
class Variation:
    """One way to measure the same model differently: a source of noise.

    Attributes:
        name: what baselines and reports call it.
        setting: holds while it is measured.
        most: the most prompts in one batch; None for as many as usual.
        order: the prompts in another order, as places in the task; None for the usual one.
        reload: gives the same model anew; None for the one at hand.
    """

    name: str
    setting: Callable[[], AbstractContextManager[Any]] = nullcontext
    most: int | None = None
    order: tuple[int, ...] | None = None
    reload: Callable[[], Runtime] | None = None
