"""One run of the gate: loads what is needed, measures each case once, and accepts baselines when asked to."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from circuitcheck.errors import BaselineError, CircuitcheckError, StaleBaselineError
from circuitcheck.models.specs import EMBEDDED
from circuitcheck.plugin.accept import Acceptance, accept_baseline
from circuitcheck.plugin.cases import Case, cases_of
from circuitcheck.plugin.settings import Settings
from circuitcheck.plugin.sizes import parse_bytes
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
    """All that one pytest process knows about the gate.

    Attributes:
        settings: what the run is to do.
        cases: its (candidate, task) pairs.
        accepted: task to what became of its baseline.
        written: what to say of each report file, and whether it could be written.

    Args:
        settings: what the run is to do.
        store: where the results of all processes of the run lie.
        progress: how long work shows how far it is.
        processes: how many processes measure side by side.
    """

    def __init__(self, settings: Settings, store: Store, progress: Progress, processes: int = 1) -> None:
        self.settings = settings
        self.cases = cases_of(settings)
        self.accepted: dict[str, Acceptance | CircuitcheckError] = {}
        self.written: list[tuple[str, bool]] = []
        self._store = store
        self._progress = progress
        self._processes = processes
        self._loaded: LoadedCandidate | None = None

    def entry(self, case: Case) -> Entry:
        """The report's entry of one case, measured once in the whole run; errors of its own kind become failures."""
        return self._store.get_or_measure(case, lambda: self._measured(case))

    def entries(self) -> list[Entry]:
        """Entries of all cases that were measured by any process of the run."""
        return self._store.entries(self.cases)

    def accept(self, case: Case) -> Acceptance | CircuitcheckError:
        """Records the case's task from the reference, once.

        Returns:
            What became of its baseline, or why nothing was written.
        """
        if case.task not in self.accepted:
            try:
                self.accepted[case.task] = self._accept(case)
            except CircuitcheckError as error:
                self.accepted[case.task] = error
        return self.accepted[case.task]

    def _accept(self, case: Case) -> Acceptance:
        reference = self._load("f32")
        task, folder = self._task(case, reference), self.baseline_folder
        with self._progress(f"recording {case.task_name}") as advance:
            return accept_baseline(
                reference, task, self._spec(), self.settings, folder, advance=advance, memory=self._memory
            )

    @property
    def baseline_folder(self) -> Path:
        """Where the reference's golden baselines lie."""
        from circuitcheck.models.load import model_name

        return self.settings.baselines / model_name(self.settings.model)

    def close(self) -> None:
        """Frees the model."""
        self._loaded = None

    def _measured(self, case: Case) -> Entry:
        from circuitcheck.models.load import model_name
        from circuitcheck.report.document import failed_entry, run_entry
        from circuitcheck.verdict.judge import judge
        from circuitcheck.verdict.limits import limits_for

        try:
            measurement = self._measure(case)
            limits = limits_for(measurement.precision, measurement.task, self.settings.limits)
            return run_entry(judge(measurement, limits))
        except CircuitcheckError as error:
            message = self._with_way_out(error, case)
            return failed_entry(model_name(self.settings.model), case.candidate_name, case.task_name, message)

    def _measure(self, case: Case) -> Any:
        from circuitcheck.baseline.baseline import Baseline, baseline_files
        from circuitcheck.baseline.stale import environment_notes, require_fresh
        from circuitcheck.environment import environment
        from circuitcheck.measurement.measure import measure
        from circuitcheck.sweep.threads import share_of_threads

        baseline: Baseline = Baseline.load(baseline_files(self.baseline_folder, case.task_name)[0])
        candidate = self._load(case.candidate)
        require_fresh(
            baseline,
            task=self._task(case, candidate),
            spec=self._spec(),
            tokenizer=candidate.fingerprints["tokenizer"],
            weights=candidate.fingerprints["weights"] if case.is_precision else None,
        )
        with self._progress(str(case)) as advance, share_of_threads(self._processes):
            measurement = measure(candidate, baseline, advance=advance, memory=self._memory)
        notes = environment_notes(baseline, environment(candidate.device))
        return replace(measurement, candidate=case.candidate_name, notes=(*measurement.notes, *notes))

    def _load(self, spec: str) -> HookedModel:
        from circuitcheck.models.load import load_model
        from circuitcheck.models.specs import PRECISIONS, SAVED

        if self._loaded is None or self._loaded.spec != spec:
            self._loaded = None  # frees the last candidate before the next one is loaded
            as_saved = SAVED if self.settings.dtype == "auto" else self.settings.dtype
            source, precision = (self.settings.model, spec) if spec in PRECISIONS else (spec, as_saved)
            model = load_model(source, precision, device=self.settings.device)
            self._loaded = LoadedCandidate(spec, model)
        return self._loaded.model

    def _task(self, case: Case, model: HookedModel) -> Any:
        from circuitcheck.tasks.load import load_task

        vocabulary = getattr(getattr(model.module, "config", None), "vocab_size", None)
        return load_task(case.task, model.tokenizer, prompts=self.settings.prompts, vocabulary=vocabulary)

    def _spec(self) -> MeasurementSpec:
        from circuitcheck.spec import MeasurementSpec

        options: dict[str, Any] = {key: getattr(self.settings, key) for key in ("ablation", "positions", "sweep")}
        return MeasurementSpec(**options)

    @property
    def _memory(self) -> int | None:
        return None if self.settings.memory is None else parse_bytes(self.settings.memory)

    def _with_way_out(self, error: CircuitcheckError, case: Case) -> str:
        from circuitcheck.baseline.baseline import baseline_files

        if not isinstance(error, BaselineError):
            return str(error)
        lines = [str(error)]
        if self.settings.model != EMBEDDED and not Path(self.settings.model).is_dir():
            lines.append(f"(There is no directory {self.settings.model} here, so it is taken for a hub id.)")
        if isinstance(error, StaleBaselineError) and not case.is_precision:
            lines.append(f"('now' is what candidate {case.candidate_name} has: is it made from the reference?)")
        exists = any(file.exists() for file in baseline_files(self.baseline_folder, case.task_name))
        command = f"{self.settings.command} --circuit-accept={'changed' if exists else 'new'} --circuit-reason 'why'"
        return "\n".join([*lines, f"To accept the present reference instead: {command}"])
