"""One run of the gate: measures each case once, and writes baselines when asked to."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitcheck.core.candidates import EMBEDDED
from circuitcheck.core.errors import BaselineError, CircuitcheckError, StaleBaselineError
from circuitcheck.core.garbage import without_collecting
from circuitcheck.core.progress import Advance, silent
from circuitcheck.core.versions import installed
from circuitcheck.plugin.acceptances import Acceptances
from circuitcheck.plugin.cases import Case, cases_of
from circuitcheck.plugin.executing import Execution
from circuitcheck.plugin.far_cases import Found, can_be_dealt, require_same
from circuitcheck.plugin.judging import Judge
from circuitcheck.plugin.models import Models
from circuitcheck.plugin.progress_bars import Progress
from circuitcheck.plugin.references import References
from circuitcheck.plugin.settings import Settings
from circuitcheck.plugin.shards import fingerprint, fingerprint_files
from circuitcheck.plugin.side_by_side import CASES, Others, are_small, cores
from circuitcheck.plugin.store import Store
from circuitcheck.report.fields import Entry

if TYPE_CHECKING:
    from circuitcheck.baseline.baseline import Baseline
    from circuitcheck.gate.accept import Acceptance


SHARED_BY_SHARDS = (
    "against_base",
    "multiverse",
    "keep",
    "prompts",
    "device",
    "dtype",
    "runtime",
    "memory",
    "allow_inconclusive",
    "allow_incomplete",
)
"""Settings beside specification and limits by which two parts would not be of one run."""


class GateSession:
    """All that one pytest process knows about the gate.

    Attributes:
        settings: what the run is to do.
        cases: its (candidate, task, unit) triples; of a shard, those that it does.
        accepted: circuit, as its cases call it, to what became of its baseline.
        document: the whole report, once it is complete.
        written: what to say of each report file, and whether it could be written.
        commands: what a workflow is to read from the output.

    Args:
        settings: what the run is to do.
        store: where the results of all processes of the run lie.
        progress: how long work shows how far it is.
        processes: how many processes measure side by side; where it is one, the session may start more.
        models: that may be loaded already; its own by default.
    """

    def __init__(
        self, settings: Settings, store: Store, progress: Progress, processes: int = 1, models: Models | None = None
    ) -> None:
        self.settings = settings
        every = cases_of(settings)
        self.cases = settings.shard.of(every, by_circuit=settings.writes_baselines) if settings.shard else every
        self.accepted: dict[str, Acceptance | CircuitcheckError] = {}
        self.document: dict[str, Any] | None = None
        self.written: list[tuple[str, bool]] = []
        self.commands: list[str] = []
        self._store = store
        self._progress = progress
        self._processes = processes
        self._are_small = are_small(settings)
        self._others = Others(settings, store)
        self._acceptances = Acceptances(store)
        self._to_spread: Sequence[Case] = ()
        self._dealt: Sequence[Case] = ()
        self._elsewhere: frozenset[Case] = frozenset()
        self._arriving: Iterator[tuple[Case, Found]] = iter(())
        self._models = models or Models(settings)
        self._execution = Execution(settings, store)
        kept: dict[Path, Baseline] | None = {} if self._are_small else None
        self._references = References(settings, self._models, store, progress, self._execution, baselines=kept)
        self._judge = Judge(settings, every, self._models, self._references, store, progress, self._execution)

    def entry(self, case: Case) -> Entry:
        """The report's entry of one case, measured once in the whole run; errors of its own kind become failures."""
        measure = self._from_workers if case in self._elsewhere else self._beside_others
        return self._store.get_or_measure(case, lambda: measure(case))

    def select(self, chosen: Collection[Case], *, may_spread: bool) -> None:
        """Takes which cases tests ask for, and whether other processes may measure some of them.

        On a cluster its workers do, where they may. Under xdist the workers are there already; large models use all
        threads; and a run that keeps finished rows stays in one process, which a kill ends whole.
        """
        settings = self.settings
        if may_spread and can_be_dealt(settings):
            self._dealt = [case for case in self.cases if case in chosen]
            self._elsewhere = frozenset(self._dealt)
        has_workers = self._processes > 1 or settings.ray is not None
        is_alone = not has_workers and settings.resume is None
        if may_spread and is_alone and self._are_small:
            wanted = [case for case in self.cases if case in chosen]
            if settings.writes_baselines:
                firsts = {case.circuit: case for case in reversed(wanted)}
                wanted = [case for case in wanted if firsts[case.circuit] is case and self._is_to_record(case)]
            self._to_spread = wanted

    def tokens_of(self, case: Case) -> int:
        """How long a case takes beside others of the run: the tokens of its prompts; 0 where there is no baseline."""
        try:
            return sum(len(pair.clean) for pair in self._references.stored(case).task.pairs)
        except CircuitcheckError:
            return 0

    def do_if_free(self, case: Case) -> None:
        """Measures a case, or makes its baseline, unless another process of the run has, or is about to."""
        if self.settings.writes_baselines:
            self._acceptances.make_if_free(self._first(case), lambda: self._made(case, silent))
        else:
            self._store.measure_if_free(case, lambda: self.measured(case))

    @property
    def execution_lines(self) -> list[str]:
        """What to say of rows that were found finished, and of workers elsewhere."""
        return self._execution.lines

    @property
    def workers(self) -> list[dict[str, Any]]:
        """Workers elsewhere, as the report has them; none where there were none."""
        return self._execution.workers

    def entries(self) -> list[Entry]:
        """Entries of all cases that were measured by any process of the run."""
        return self._store.entries(self.cases)

    def accept(self, case: Case) -> Acceptance | CircuitcheckError:
        """Makes the baseline of the case's circuit, once: accepts it from the reference, or calibrates it.

        Returns:
            What is to become of it, once `write_accepted` writes all of them, or why it cannot be made.
        """
        if case.circuit not in self.accepted:
            self.accepted[case.circuit] = CircuitcheckError(f"{case.circuit} was not finished.")
            spread, self._to_spread = [other for other in self._to_spread if other.circuit != case.circuit], ()
            self._others.start(spread, min(cores() - 1, len(spread)), lambda: self._load(case))
            doing = "calibrating" if self.settings.calibrate else "recording"
            try:
                with self._progress(f"{doing} {case.circuit}") as advance:  # also while another process does it
                    made = self._acceptances.of(self._first(case), lambda: self._made(case, advance))
                self.accepted[case.circuit] = made
            except CircuitcheckError as error:
                self.accepted[case.circuit] = error
        return self.accepted[case.circuit]

    @property
    def written_to(self) -> Path:
        """Where baselines are written; of a shard, beside its file."""
        settings, folder = self.settings, self._references.folder
        if settings.shard is None or settings.report_dir is None:
            return folder
        return settings.report_dir / settings.shard.name / folder.name

    def run_facts(self) -> dict[str, str]:
        """What all shards of one run have in common, name to value."""
        settings, every = self.settings, cases_of(self.settings)
        doing = "calibrate" if settings.calibrate else f"accept {settings.accept}" if settings.accept else "gate"
        specs = [self._references.spec_of(case).fingerprint for case in every]
        files = [self._references.file(case) for case in every]
        options = {name: getattr(settings, name) for name in SHARED_BY_SHARDS}
        return {
            "task": doing,
            "reason": settings.reason,
            "command": settings.report_command,
            "cases": fingerprint([[str(case), case.candidate_name, case.circuit] for case in every]),
            "specification": fingerprint(specs),
            "limits": fingerprint(settings.limits),
            "options": fingerprint(options),
            "baselines": fingerprint_files(files),
            **installed(),
        }

    @property
    def expected(self) -> int:
        """How many cases the whole run has."""
        return len(cases_of(self.settings))

    def weights(self) -> dict[str, str]:
        """Candidate to the fingerprint of its weights, of those that were measured."""
        return {case.candidate_name: found for case in self.cases if (found := self._judge.weights_of(case))}

    def weights_of(self, case: Case) -> str:
        """Fingerprint of the weights that a case's candidate had; empty where it was not loaded."""
        return self._judge.weights_of(case)

    def baseline_fingerprint(self, case: Case) -> str:
        """Of the file that a case is held against; it may be missing."""
        return fingerprint_files([self._references.file(case)])

    def write_accepted(self, *, was_stopped: bool) -> bool:
        """Writes all baselines that were made, or none, and says so in `accepted`.

        Args:
            was_stopped: whether the run ended before every test of it did.

        Returns:
            Whether everything is as it was asked for.
        """
        from circuitcheck.gate.accept import write

        failed = [name for name, made in self.accepted.items() if isinstance(made, CircuitcheckError)]
        made = {name: item for name, item in self.accepted.items() if not isinstance(item, CircuitcheckError)}
        error: CircuitcheckError | None = None
        if failed:
            error = BaselineError(f"{', '.join(failed)} could not be, and tasks are written together or not at all.")
        elif was_stopped:
            error = BaselineError("the run was stopped, and tasks are written together or not at all.")
        else:
            try:
                write(made.values(), self.written_to)
            except CircuitcheckError as caught:
                error = caught
        if error is not None:
            self.accepted |= {name: error for name, item in made.items() if item.baseline is not None}
        return error is None

    def _is_to_record(self, case: Case) -> bool:
        """Whether making the case's baseline is work: one that is left alone is none."""
        exists = self._references.file(case).exists()
        return {"new": not exists, "changed": exists}.get(self.settings.accept or "", True)

    def _first(self, case: Case) -> Case:
        """The first case of the same circuit."""
        return next(other for other in self.cases if other.circuit == case.circuit)

    def _made(self, case: Case, advance: Advance) -> Acceptance:
        """What is to become of the baseline of the case's circuit.

        Raises:
            CircuitcheckError: it cannot be made.
        """
        with self._threads():
            return self._calibrate(case) if self.settings.calibrate else self._accept(case, advance)

    def _accept(self, case: Case, advance: Advance) -> Acceptance:
        from circuitcheck.gate.accept import accept

        settings = self.settings
        request: Any = settings.accept  # one of the option's choices
        references, reference = self._references, self._models.reference()
        task = references.task(case, reference)
        return accept(
            reference,
            task,
            references.spec_of(case),
            references.folder,
            request,
            settings.reason,
            limits=settings.limits,
            advance=advance,
            memory=settings.memory,
            execute=self._execution.of(None),
        )

    def _calibrate(self, case: Case) -> Acceptance:
        from circuitcheck.gate.accept import accept_calibration

        references, reference = self._references, self._models.reference()
        baseline = references.stored(case)
        self._references.require_fresh(case, baseline, reference, is_reference=True)
        return accept_calibration(
            reference,
            baseline,
            references.folder,
            self._models.reload_reference,
            memory=self.settings.memory,
            execute=self._execution.of(None),
        )

    def close(self) -> None:
        """Ends other processes and workers elsewhere, and frees the models."""
        self._others.close()
        self._models.close()
        self._execution.close()

    def _beside_others(self, case: Case) -> Entry:
        """The case's entry; with the first that is measured, other processes begin at the end."""
        spread, self._to_spread = [other for other in self._to_spread if other != case], ()
        if spread:
            count = min(cores(), len(spread) // CASES + 1) - 1
            self._others.start(spread, count, lambda: self._load(case))
        return self.measured(case)

    def _load(self, case: Case) -> None:
        """Imports what measuring takes, and loads what a case needs; what cannot be loaded is told where it is used."""
        from importlib import import_module

        with without_collecting(), suppress(CircuitcheckError), self._threads():
            import_module(f"circuitcheck.gate.{'accept' if self.settings.writes_baselines else 'decide'}")
            if self.settings.writes_baselines:
                self._models.reference()
            else:
                self._models.candidate(case.candidate)
                self._references.stored(case)

    def _from_workers(self, case: Case) -> Entry:
        """The case's entry from a worker elsewhere; what comes from them meanwhile is put into the store."""
        try:
            if self._dealt:
                with self._threads():
                    self._arriving = self._execution.measured_elsewhere(self._dealt)
                self._dealt = ()
            with self._progress(str(case)):
                for other, found in self._arriving:
                    entry = self._checked(other, found)
                    if other == case:
                        return entry
                    self._store.keep(other, entry)
        except CircuitcheckError as error:
            self._arriving = iter(())
            return self._failed(case, error)
        return self.measured(case)

    def _checked(self, case: Case, found: Found) -> Entry:
        """A worker's entry of a case, or one that says why it does not count."""
        weights = None
        try:
            if not case.is_precision:
                weights = self._models.candidate(case.candidate).facts.fingerprints["weights"]
            require_same(case, found, weights, self.baseline_fingerprint(case))
        except CircuitcheckError as error:
            return self._failed(case, error)
        self._judge.note_weights(case, found.weights)
        return found.entry

    def measured(self, case: Case) -> Entry:
        """The report's entry of one case, measured now; errors of its own kind become failures."""
        from circuitcheck.report.document import run_entry

        try:
            with self._threads():
                baseline = self._references.of(case)
                verdict = self._judge.verdict(case, baseline)
                entry = run_entry(verdict) | self._judge.additions(case, baseline, verdict)
        except CircuitcheckError as error:
            return self._failed(case, error)
        return entry | {"unit": case.unit}

    def _threads(self) -> AbstractContextManager[None]:
        with without_collecting():
            from circuitcheck.runtimes.pytorch.threads import computing_threads, share_of_threads

        return computing_threads(1) if self._are_small else share_of_threads(self._processes)

    def _failed(self, case: Case, error: CircuitcheckError) -> Entry:
        from circuitcheck.report.document import failed_entry
        from circuitcheck.runtimes.pytorch.loading.load import model_name

        message = self._with_way_out(error, case)
        name = model_name(self.settings.model)
        return failed_entry(name, case.candidate_name, case.task_name, message) | {"unit": case.unit}

    def _with_way_out(self, error: CircuitcheckError, case: Case) -> str:
        if not isinstance(error, BaselineError):
            return str(error)
        lines = [str(error)]
        if self.settings.model != EMBEDDED and not self.settings.download and not Path(self.settings.model).is_dir():
            lines.append(f"(There is no directory {self.settings.model} here; only its name was used.)")
        if isinstance(error, StaleBaselineError) and not case.is_precision:
            lines.append(f"('now' is what candidate {case.candidate_name} has: is it made from the reference?)")
        exists = self._references.file(case).exists()
        command = f"{self.settings.command} --circuit-accept={'changed' if exists else 'new'} --circuit-reason 'why'"
        return "\n".join([*lines, f"To accept the present reference instead: {command}"])
