"""A model in memory together with everything that circuitcheck needs to know to hook it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self
from weakref import WeakKeyDictionary

import torch
from torch import nn

from circuitcheck.core.census import Census
from circuitcheck.core.features import DictionaryFacts
from circuitcheck.core.metric import LOGIT_DIFFERENCE, Metric
from circuitcheck.core.units import Layout
from circuitcheck.runtimes.pytorch import FEATURE
from circuitcheck.runtimes.pytorch.offload import execution_device
from circuitcheck.runtimes.pytorch.ports.hook_points import feature_ports, name_of
from circuitcheck.runtimes.pytorch.ports.latents import Latents
from circuitcheck.runtimes.pytorch.ports.ports import Port, narrowed, ports_of
from circuitcheck.runtimes.pytorch.ports.structure import Structure


@dataclass(frozen=True)
class Proven:
    """What was proven of a module as it is now.

    Attributes:
        hooks: kind of unit, length of prompts and metric for which its hooks were proven.
        replays: length of prompts, positions that are replayed, how many prompts the proof ran and the most rows in a
            pass, to what a replay may leave out, or why there is none.
        causal: length of prompts and last positions to why those before them do not stand for themselves; None where
            they do.
    """

    hooks: set[tuple[str, int, str]] = field(default_factory=set)
    replays: dict[tuple[int, int, int, int | None], Any] = field(default_factory=dict)
    causal: dict[tuple[int, int], str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class TorchModel:
    """A model as it is shipped, with its hook sites.

    Attributes:
        module: the model itself; never folded, re-centred or re-implemented.
        structure: where its units are.
        tokenizer: its Hugging Face tokenizer, or None for tasks in token ids.
        name: how reports call it.
        precision: the candidate spec that it was loaded as (`f32` for a reference).
        fingerprints: `weights` and `tokenizer`, as hexadecimal SHA-256.
        notes: what a reader of the report must know about how it was loaded.
        census: what was really loaded; None where nobody looked.
        batch_size: the most rows in one forward pass; 1 where a prompt's logits depend on its batch mates.
        wide: half-precision types whose products float32 kernels make while it is measured.
        quantity: what is measured of a prompt; `record_reference` and `measure` bind the one that the spec names.
        chosen: which units of a kind are seen, where that is not all.
        latents: of the dictionaries by which its features are read; none where it has none.
        dictionaries: how well these explain what passes, on the task that was named last.
        proven: module to what was proven of it; copies of this object share it.
    """

    module: nn.Module
    structure: Structure
    tokenizer: Any = None
    name: str = "model"
    precision: str = "f32"
    fingerprints: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    census: Census | None = None
    batch_size: int | None = None
    wide: tuple[torch.dtype, ...] = ()
    quantity: Metric = LOGIT_DIFFERENCE
    chosen: tuple[Layout, ...] = ()
    latents: tuple[Latents, ...] = ()
    dictionaries: tuple[DictionaryFacts, ...] = ()
    proven: WeakKeyDictionary[nn.Module, Proven] = field(default_factory=WeakKeyDictionary, compare=False, repr=False)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return execution_device(self.module)

    @property
    def proven_here(self) -> Proven:
        """What was proven of the module, which is what it was then."""
        return self.proven.setdefault(self.module, Proven())

    def ports(self, kind: str) -> tuple[Port, ...]:
        """Where units of a kind are read and written.

        Raises:
            SiteError: it has none that can be found.
        """
        if kind == FEATURE:
            ports = feature_ports(self.module, self.structure, self.latents)
        else:
            ports = ports_of(self.module, self.structure, kind)
        layout = next((layout for layout in self.chosen if layout.kind == kind), None)
        return ports if layout is None else narrowed(ports, layout)

    def narrowed(self, layout: Layout) -> Self:
        """The same model, of whose units of the layout's kind only those in it are seen.

        Raises:
            SiteError: it has no such units.
        """
        others = tuple(other for other in self.chosen if other.kind != layout.kind)
        model = replace(self, chosen=(*others, layout))
        model.ports(layout.kind)  # refused here, not in the middle of a measurement
        return model

    @property
    def fingerprints_of_dictionaries(self) -> dict[str, str]:
        """Group of features to the fingerprint of the dictionary that they are read by."""
        return {name_of(one.dictionary): one.dictionary.fingerprint for one in self.latents}

    def at_most(self, rows: int | None) -> int | None:
        """The most rows in one forward pass where `rows` are allowed; None where there is no limit."""
        limits = [limit for limit in (rows, self.batch_size) if limit is not None]
        return min(limits, default=None)
