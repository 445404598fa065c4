"""One run of the gate: loads what is needed, measures each case once, and accepts baselines when asked to."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from circuitcheck.errors import BaselineError, CircuitcheckError
from circuitcheck.plugin.accept import Acceptance, accept_baseline
from circuitcheck.plugin.cases import Case, cases_of
from circuitcheck.plugin.settings import Settings
from circuitcheck.plugin.store import Store
from circuitcheck.report.fields import Entry

if TYPE_CHECKING:
    from circuitcheck.baseline.baseline import Baseline
    from circuitcheck.models.hooked import HookedModel
    from circuitcheck.spec import MeasurementSpec
    from circuitcheck.sweep.progress import Advance


class Progress(Protocol):
    """Makes a context that shows a bar and gives the callback that moves it."""

    def __call__(self, description: str) -> AbstractContextManager[Advance]:
        """A bar called `description`."""


@dataclass
class LoadedCandidate:
    """The candidate that was loaded last; its tasks follow one another."""

    spec: str
    model: HookedModel


class GateSession:
    """All that one pytest process knows about the gate."""

    def __init__(self, settings: Settings, store: Store, progress: Progress) -> None:
        self.settings = settings
        self.cases = cases_of(settings)
        self.accepted: dict[str, Acceptance] = {}
        self._store = store
        self._progress = progress
        self._loaded: LoadedCandidate | None = None

    def entry(self, case: Case) -> Entry:
        """The report's entry of one case, measured once in the whole run; errors of its own kind become failures."""
        return self._store.get_or_measure(case, lambda: self._measured(case))

    def entries(self) -> list[Entry]:
        """Entries of all cases that were measured by any process of the run."""
        return self._store.entries(self.cases)

    def accept(self, case: Case) -> Acceptance:
        """Records the case's task from the reference, once.

        Raises:
            CircuitcheckError: the reference cannot be recorded; nothing was written.
        """
        if case.task not in self.accepted:
            reference = self._load("f32")
            with self._progress(f"recording {case.task_name}") as advance:
                self.accepted[case.task] = accept_baseline(
                    reference, self._task(case, reference), self._spec(), self.settings, self.baseline_folder, advance
                )
        return self.accepted[case.task]

    @property
    def baseline_folder(self) -> Path:
        """Where the reference's golden baselines lie."""
        from circuitcheck.models.load import model_name

        return self.settings.baselines / model_name(self.settings.model)

    @property
    def store_directory(self) -> Path:
        """Where the results of this run lie, for other processes of it."""
        return self._store.directory

    def close(self) -> None:
        """Frees the model and the run's files."""
        self._loaded = None
        self._store.close()

    def _measured(self, case: Case) -> Entry:
        from circuitcheck.report.document import failed_entry, run_entry
        from circuitcheck.verdict.judge import judge
        from circuitcheck.verdict.limits import limits_for

        try:
            measurement = self._measure(case)
            limits = limits_for(measurement.precision, measurement.task, self.settings.limits)
            return run_entry(judge(measurement, limits))
        except CircuitcheckError as error:
            return failed_entry(self.settings.model, case.candidate_name, case.task_name, self._with_way_out(error))

    def _measure(self, case: Case) -> Any:
        from circuitcheck.baseline.baseline import Baseline, baseline_files
        from circuitcheck.baseline.stale import environment_notes, require_fresh
        from circuitcheck.environment import environment
        from circuitcheck.measurement.measure import measure

        baseline: Baseline = Baseline.load(baseline_files(self.baseline_folder, case.task_name)[0])
        candidate = self._load(case.candidate)
        require_fresh(
            baseline,
            task=self._task(case, candidate),
            spec=self._spec(),
            tokenizer=candidate.fingerprints["tokenizer"],
            weights=candidate.fingerprints["weights"] if case.is_precision else None,
        )
        with self._progress(str(case)) as advance:
            measurement = measure(candidate, baseline, advance=advance)
        notes = environment_notes(baseline, environment())
        return replace(measurement, candidate=case.candidate_name, notes=(*measurement.notes, *notes))

    def _load(self, spec: str) -> HookedModel:
        from circuitcheck.models.load import load_model
        from circuitcheck.models.specs import PRECISIONS, SAVED

        if self._loaded is None or self._loaded.spec != spec:
            self._loaded = None  # frees the last candidate before the next one is loaded
            model = load_model(self.settings.model, spec) if spec in PRECISIONS else load_model(spec, SAVED)
            self._loaded = LoadedCandidate(spec, model)
        return self._loaded.model

    def _task(self, case: Case, model: HookedModel) -> Any:
        from circuitcheck.tasks.load import load_task

        vocabulary = getattr(getattr(model.module, "config", None), "vocab_size", None)
        return load_task(case.task, model.tokenizer, prompts=self.settings.prompts, vocabulary=vocabulary)

    def _spec(self) -> MeasurementSpec:
        from circuitcheck.spec import MeasurementSpec

        options: dict[str, Any] = {"ablation": self.settings.ablation, "positions": self.settings.positions}
        return MeasurementSpec(**options)

    def _with_way_out(self, error: CircuitcheckError) -> str:
        if not isinstance(error, BaselineError):
            return str(error)
        kind = "new" if "is missing" in str(error) else "changed"
        return (
            f"{error}\nTo accept the present reference instead: "
            f"{self.settings.command} --circuit-accept={kind} --circuit-reason 'why'"
        )
