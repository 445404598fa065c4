"""Where the golden circuits of a run come from: the stored baselines, or the reference measured in the same run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitcheck.core.candidates import GGUF, split_variant
from circuitcheck.core.errors import StaleBaselineError
from circuitcheck.plugin.cases import Case
from circuitcheck.plugin.executing import Execution
from circuitcheck.plugin.models import Models
from circuitcheck.plugin.progress_bars import Progress
from circuitcheck.plugin.settings import Settings
from circuitcheck.plugin.store import Store

if TYPE_CHECKING:
    from circuitcheck.baseline.baseline import Baseline
    from circuitcheck.core.prompts import Task
    from circuitcheck.core.runtime import Runtime
    from circuitcheck.core.specification import MeasurementSpec

AGAINST_BASE = "The reference was measured in this run (--circuit-against-base), not taken from the stored baseline."


@dataclass(frozen=True)
class References:
    """The golden circuits of one pytest process.

    Attributes:
        settings: what the run is to do.
        models: loads the reference where it is needed.
        store: where all processes of the run keep what they measured of it.
        progress: how long work shows how far it is.
        execution: how patches are carried out.
        tasks: task, tokenizer and size of the vocabulary to the prompts.
        baselines: file to what it holds, of a small model; where each may be as large as a model, none stays.
    """

    settings: Settings
    models: Models
    store: Store
    progress: Progress
    execution: Execution
    tasks: dict[tuple[str, str, int | None], Task] = field(default_factory=dict)
    baselines: dict[Path, Baseline] | None = None

    @property
    def folder(self) -> Path:
        """Where the reference's golden baselines lie."""
        from circuitcheck.runtimes.pytorch.loading.load import model_name

        return self.settings.baselines / model_name(self.settings.model)

    def file(self, case: Case, folder: Path | None = None) -> Path:
        """The JSON of the case's baseline, in the reference's folder or in another."""
        from circuitcheck.baseline.names import baseline_file

        return baseline_file(folder or self.folder, case.task_name, case.unit)

    def of(self, case: Case) -> Baseline:
        """The case's golden circuit.

        Raises:
            CircuitcheckError: the baseline cannot be read, or the reference cannot be measured.
        """
        if not self.settings.against_base:
            return self.stored(case)
        return self.measured(case, self.spec_of(case))

    def stored(self, case: Case) -> Baseline:
        """The case's baseline on disk.

        Raises:
            BaselineError: it is missing, unreadable, corrupt or of another schema.
        """
        from circuitcheck.baseline.baseline import Baseline

        file = self.file(case)
        if self.baselines is None:
            return Baseline.load(file)
        if file not in self.baselines:
            self.baselines[file] = Baseline.load(file)
        return self.baselines[file]

    def measured(self, case: Case, spec: MeasurementSpec, *, whole: bool = True) -> Baseline:
        """The case's circuit as the reference shows it now; measured by the first process that asks.

        Args:
            case: whose task.
            spec: what to measure.
            whole: every kind of ablation and the noise floor; else only what a verdict under `spec` needs.

        Raises:
            CircuitcheckError: the reference cannot be measured, or is not the one that was accepted.
        """
        from circuitcheck.baseline.baseline import Baseline

        folder = self.store.directory / "references" / f"{spec.fingerprint[:16]}-{'whole' if whole else 'part'}"
        with self.store.lock(f"reference-{folder.name}-{case.circuit}"):
            file = self.file(case, folder)
            if not file.exists():
                self._record(case, spec, whole).save(folder)
        return Baseline.load(file)

    def _record(self, case: Case, spec: MeasurementSpec, whole: bool) -> Baseline:
        from circuitcheck.core.metric import metric_from_settings
        from circuitcheck.gate.many import chosen_in
        from circuitcheck.gate.record import record_reference

        reference = self.models.reference().measured_by(metric_from_settings(spec.metric))
        self._require_accepted(case, reference)
        options: dict[str, Any] = {}
        if not whole:  # the same units as in the gate, so that what rounding does to them is known
            options = {"kinds": (spec.ablation,), "sources": (), "roundings": (), "chosen": chosen_in(self.of(case))}
        with self.progress(f"reference on {case.circuit}") as advance:
            recorded = record_reference(
                reference,
                self.task(case, reference),
                spec,
                advance=advance,
                memory=self.settings.memory,
                execute=self.execution.of(None),
                **options,
            )
        if whole:
            return replace(recorded, notes=(*recorded.notes, AGAINST_BASE))
        # What rounding does to what units write depends on neither ablation nor metric.
        return recorded.rounded_as(self.of(case))

    def _require_accepted(self, case: Case, reference: Runtime) -> None:
        """A reference that is measured now is still the one that somebody accepted, where anybody did."""
        if not self.file(case).exists():
            return
        facts = reference.facts
        _require_same(case, self.stored(case), facts.name, facts.fingerprints["weights"])

    def named_notes(self, case: Case, baseline: Baseline) -> tuple[str, ...]:
        """What a reader must know of the reference that was named, and that a saved candidate is compared without.

        Raises:
            CircuitcheckError: it is at hand, and not the one that was recorded; or it is not, and has another name.
        """
        if case.is_precision or self.settings.against_base:
            return ()  # its weights were loaded, and held against the baseline
        from circuitcheck.runtimes.pytorch.loading.load import weights_at_hand
        from circuitcheck.runtimes.pytorch.loading.source import model_name

        model, download = self.settings.model, self.settings.download
        found = self.store.get_or_make("reference", lambda: {"weights": weights_at_hand(model, download=download)})
        if found["weights"] is not None:
            _require_same(case, baseline, model, found["weights"])
            return ()
        recorded, weights = baseline.model, baseline.fingerprints["weights"]
        if recorded not in (model, model_name(model)):
            raise StaleBaselineError(
                f"the golden baseline for {case.circuit!r} was recorded of {recorded}, and this run names {model}, so "
                f"nothing was compared. Name it as it was recorded: --circuit-model={recorded}."
            )
        return (
            f"The reference {model} is not on this machine, so that the golden baseline is of it was taken from its "
            f"name alone; the baseline was recorded of {recorded} with the weights {weights[:12]}.",
        )

    def require_fresh(self, case: Case, baseline: Baseline, model: Runtime, *, is_reference: bool = False) -> None:
        """Refuses a baseline that speaks of other weights, prompts, tokens or another specification.

        Args:
            case: the candidate and the task.
            baseline: what was recorded.
            model: the candidate, or the reference.
            is_reference: which of them.

        Raises:
            StaleBaselineError: says everything that differs.
        """
        from circuitcheck.baseline.freshness import require_fresh

        # A GGUF file describes its tokenizer in its own way; that the prompts are the same token ids is checked.
        has_own_tokenizer = split_variant(case.candidate)[0].endswith(GGUF) and not is_reference
        fingerprints = model.facts.fingerprints
        require_fresh(
            baseline,
            task=self.task(case, model),
            spec=self.spec_of(case),
            tokenizer=None if has_own_tokenizer else fingerprints["tokenizer"],
            weights=fingerprints["weights"] if case.is_precision or is_reference else None,
        )

    def task(self, case: Case, model: Runtime) -> Task:
        """The case's prompts in the model's tokens.

        Raises:
            TaskError: they cannot be used.
        """
        from circuitcheck.tasks.named import load_task

        facts = model.facts
        what = case.task, facts.fingerprints["tokenizer"], facts.vocabulary
        if what not in self.tasks:
            self.tasks[what] = load_task(
                case.task, model.tokenizer, prompts=self.settings.prompts, vocabulary=facts.vocabulary
            )
        return self.tasks[what]

    def spec_of(self, case: Case) -> MeasurementSpec:
        """What this run measures of a case."""
        return self.settings.spec(case.unit)


def _require_same(case: Case, baseline: Baseline, name: str, weights: str) -> None:
    accepted = baseline.fingerprints["weights"]
    if accepted != weights:
        raise StaleBaselineError(
            f"the reference {name} is not the one that was accepted for {case.circuit!r}: its weights were "
            f"{accepted[:12]} and are {weights[:12]}, so nothing was compared."
        )
