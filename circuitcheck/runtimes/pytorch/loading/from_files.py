"""Saved candidates in PyTorch."""

from __future__ import annotations

from dataclasses import replace

from circuitcheck.core.candidates import SAVED
from circuitcheck.runtimes.choose import AUTO, Wanted
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.load import load_model


def load(wanted: Wanted) -> HookedModel:
    """A saved candidate, through transformers.

    Raises:
        ConfigurationError: a device that is not there.
        ModelError: the files are not what they should be; see `load_model`.
        SiteError: its attention output projections cannot be found.
    """
    model = load_model(
        wanted.source,
        SAVED if wanted.dtype == AUTO else wanted.dtype,
        device=wanted.device,
        reference=wanted.reference,
        download=wanted.download,
    )
    return replace(model, notes=(*wanted.notes, *model.notes))
