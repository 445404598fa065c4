"""Whole cases of a run measured on machines elsewhere, which must read what this one would."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from circuitcheck.core.errors import ConfigurationError, ModelError
from circuitcheck.core.specification import METRICS
from circuitcheck.plugin.cases import Case
from circuitcheck.plugin.models import Models
from circuitcheck.plugin.progress_bars import shows_nothing
from circuitcheck.plugin.settings import Settings
from circuitcheck.plugin.store import Store

if TYPE_CHECKING:
    from circuitcheck.report.fields import Entry

SAME_PATH = "All machines of a cluster must see the same files under one path."


@dataclass(frozen=True)
class Found:
    """What came of a case, and what it was measured from.

    Attributes:
        entry: of the report.
        weights: fingerprint of the candidate's; empty where it could not be loaded.
        baseline: fingerprint of the baseline's file.
    """

    entry: Entry
    weights: str
    baseline: str


def can_be_dealt(settings: Settings) -> bool:
    """Whether cases may be measured apart: nothing is shared by them, kept here, written, or known here alone."""
    shares = settings.against_base or settings.keep or settings.multiverse
    stays = settings.resume is not None or settings.writes_baselines or settings.metric not in METRICS
    return settings.ray is not None and not (shares or stays)


def start_measuring(settings: Settings, folder: str) -> Callable[[Case], Found]:
    """What measures cases on a worker, in the working directory of the run.

    Raises:
        ConfigurationError: the worker has no such folder.
    """
    from circuitcheck.plugin.session import GateSession

    try:
        os.chdir(folder)
    except OSError as error:
        raise ConfigurationError(f"a worker cannot use the folder {folder} ({error.strerror}). {SAME_PATH}") from error
    models = Models(settings)

    def measure(case: Case) -> Found:
        store = Store()  # of one case: whoever ends a worker does not tell it before
        try:
            session = GateSession(settings, store, shows_nothing, models=models)
            return Found(session.measured(case), session.weights_of(case), session.baseline_fingerprint(case))
        finally:
            store.close()

    return measure


def require_same(case: Case, found: Found, weights: str | None, baseline: str) -> None:
    """Nothing, if a case was measured from what lies here.

    Args:
        case: the case.
        found: what a worker says of it.
        weights: fingerprint of the candidate's as they are here; None for one that is made from the reference, whose
            weights the baseline knows.
        baseline: fingerprint of the baseline as it is here.

    Raises:
        ModelError: other weights were measured.
        ConfigurationError: another baseline was read.
    """
    if found.baseline != baseline:
        raise ConfigurationError(f"a worker sees another baseline for {case.circuit} than this process. {SAME_PATH}")
    if weights is not None and found.weights != weights:
        raise ModelError(
            f"a worker sees another {case.candidate_name} than this process: weights "
            f"{found.weights[:12] or 'that cannot be loaded'}, not {weights[:12]}. {SAME_PATH}"
        )
