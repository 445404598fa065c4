"""Measuring and judging the cases of a run, and what is asked for beside the verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from circuitcheck.core.errors import CircuitcheckError
from circuitcheck.plugin.cases import Case
from circuitcheck.plugin.executing import Execution
from circuitcheck.plugin.models import Models
from circuitcheck.plugin.progress_bars import Progress
from circuitcheck.plugin.references import References
from circuitcheck.plugin.settings import Settings
from circuitcheck.plugin.store import Store
from circuitcheck.report.fields import Entry

if TYPE_CHECKING:
    from circuitcheck.baseline.baseline import Baseline
    from circuitcheck.core.results import Measurement, Verdict
    from circuitcheck.core.runtime import Runtime
    from circuitcheck.core.specification import MeasurementSpec
    from circuitcheck.verdict.limits import Limits


NOT_KEEPABLE = "the runtime of {name} cannot put the reference's weights into it, so what to keep was not searched for."


@dataclass(frozen=True)
class Judge:
    """Verdicts on the cases of one pytest process.

    Attributes:
        settings: what the run is to do.
        cases: all cases of the run.
        models: loads candidates and the reference.
        references: gives golden circuits.
        store: what the processes of the run share.
        progress: how long work shows how far it is.
        execution: how patches are carried out.
    """

    settings: Settings
    cases: Sequence[Case]
    models: Models
    references: References
    store: Store
    progress: Progress
    execution: Execution

    def verdict(self, case: Case, baseline: Baseline) -> Verdict:
        """The verdict on one case.

        Raises:
            CircuitcheckError: the baseline is stale, or the candidate cannot be loaded or measured.
        """
        from circuitcheck.baseline.freshness import environment_notes
        from circuitcheck.gate.decide import decide

        candidate = self.models.candidate(case.candidate)
        self.note_weights(case, candidate.facts.fingerprints["weights"])
        self.references.require_fresh(case, baseline, candidate)
        named = self.references.named_notes(case, baseline)
        reference = self.models.reference() if self.settings.against_base else None
        with self.progress(str(case)) as advance:
            verdict = decide(
                candidate,
                baseline,
                lambda precision: self._limits(precision, baseline.task.name),
                advance=advance,
                memory=self.settings.memory,
                execute=self.execution.of(case.candidate),
                reference=reference,
            )
        measurement = verdict.measurement
        is_copy = case.candidate == "f32" or (
            not case.is_precision and candidate.facts.fingerprints["weights"] == baseline.fingerprints["weights"]
        )
        more = (*named, *_sameness(measurement, is_copy), *environment_notes(baseline, measurement.environment))
        notes = (*measurement.notes, *more)
        return replace(verdict, measurement=replace(measurement, candidate=case.candidate_name, notes=notes))

    def note_weights(self, case: Case, weights: str) -> None:
        """Keeps the fingerprint of the weights that a case's candidate has."""
        self.store.get_or_make(_weights_of(case), lambda: {"weights": weights})

    def weights_of(self, case: Case) -> str:
        """Fingerprint of the weights that a case's candidate had; empty where it was not loaded."""
        found = self.store.made(_weights_of(case))
        return "" if found is None else str(found["weights"])

    def additions(self, case: Case, baseline: Baseline, verdict: Verdict) -> Entry:
        """What a report's entry holds beside the verdict: the noise floor, and what options ask for.

        Raises:
            CircuitcheckError: the reference cannot be loaded or measured.
        """
        from circuitcheck.baseline.noise_floor import listed

        sources = listed(baseline.noise)
        noise = {"instruction_set": ", ".join(sorted(baseline.noise)), "sources": sources} if sources else None
        additions: Entry = {"noise": noise}
        if self.settings.multiverse and verdict.criteria:
            from circuitcheck.diagnostics.multiverse import multiverse

            additions["multiverse"] = multiverse(baseline.spec, verdict.word, lambda spec: self._word_under(case, spec))
        if self.settings.keep and verdict.word == "FAIL":
            additions["keep"] = self._kept(case, verdict)
        return additions

    def _word_under(self, case: Case, spec: MeasurementSpec) -> str:
        baseline = self.references.measured(case, spec, whole=False)
        description = f"{case}, {spec.ablation}, {spec.metric}, {spec.ablate_at}"
        candidate = self.models.candidate(case.candidate)
        return self._judged(self._measure(description, candidate, baseline, curves=False)).word

    def _kept(self, case: Case, verdict: Verdict) -> Entry:
        """The candidate's keep list over all its tasks, searched for by the first process that asks."""
        number = next(other.number for other in self.cases if other.candidate == case.candidate)
        return self.store.get_or_make(f"keep-{number:04d}", lambda: self._searched(case, verdict))

    def _searched(self, case: Case, verdict: Verdict) -> Entry:
        from circuitcheck.diagnostics.keep_list import Keepable, find_keep_list, suggested_order
        from circuitcheck.report.document import failed_keep_entry, keep_entry

        siblings = [other for other in self.cases if other.candidate == case.candidate]
        baselines = [self.references.of(other) for other in siblings]

        def judge_candidate(model: Runtime) -> list[Verdict]:
            return [
                self._judged(self._measure(f"keep list, {other}", model, baseline, curves=False))
                for other, baseline in zip(siblings, baselines, strict=True)
            ]

        candidate = self.models.candidate(case.candidate)
        if not isinstance(candidate, Keepable):
            return failed_keep_entry(NOT_KEEPABLE.format(name=candidate.facts.name))
        try:
            order = suggested_order(verdict.measurement.circuit)
            return keep_entry(find_keep_list(self.models.reference(), candidate, judge_candidate, suggested=order))
        except CircuitcheckError as error:
            return failed_keep_entry(str(error))

    def _measure(self, description: str, candidate: Runtime, baseline: Baseline, **options: Any) -> Measurement:
        from circuitcheck.gate.measure import measure

        with self.progress(description) as advance:
            return measure(candidate, baseline, advance=advance, memory=self.settings.memory, **options)

    def _judged(self, measurement: Measurement) -> Verdict:
        from circuitcheck.gate.judge import judge

        return judge(measurement, self._limits(measurement.precision, measurement.task))

    def _limits(self, precision: str, task: str) -> Limits:
        from circuitcheck.verdict.limits import limits_for

        return limits_for(precision, task, self.settings.limits)


def _weights_of(case: Case) -> str:
    return f"weights-{case.number:04d}"


def _sameness(measurement: Measurement, is_copy: bool) -> tuple[str, ...]:
    """That a candidate is the reference: its verdict is right, and says nothing about a release."""
    if is_copy:
        return ("This candidate is the reference itself: it has the weights that were recorded.",)
    circuit = measurement.circuit
    if circuit is not None and not any(unit.drift or unit.importance_change.value for unit in circuit.units):
        return ("Nothing of what this candidate computes differs from the reference: is it a copy of it?",)
    return ()
