"""Builds one labelled candidate and lets every detector see it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from circuitcheck.baseline.recording import Recording
from circuitcheck.core.activations import Activations
from circuitcheck.core.errors import CircuitcheckError
from circuitcheck.core.prompts import Task
from circuitcheck.core.results import Verdict
from circuitcheck.gate.judge import judge
from circuitcheck.gate.measure import measure
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.threads import computing_threads
from circuitcheck.verdict.limits import Limits
from detection.candidate import LabelledCandidate
from detection.detectors import Outputs, our_scores, output_scores, outputs, task_scores, word
from detection.texts import evaluation_text

REFUSED = "REFUSED"
"""The word for a candidate that the gate will not measure, such as one whose heads do nothing at all."""


@dataclass(frozen=True)
class Row:
    """What every detector says about one candidate.

    Attributes:
        name, kind, family, truth, tasks, precision, severity, run: the candidate's.
        word: our verdict over all tasks: PASS, INCONCLUSIVE, FAIL or REFUSED.
        words: task to verdict.
        missed_tasks: tasks that are to catch it and whose verdict is PASS.
        red: criteria that do not pass, as task/criterion.
        scores: detector to score.
        values: task/criterion to value and interval.
        seconds: that building and measuring it took.
    """

    name: str
    kind: str
    family: str
    truth: str
    tasks: list[str]
    precision: str
    severity: float
    run: str | None
    word: str
    words: dict[str, str]
    missed_tasks: list[str]
    red: list[str]
    scores: dict[str, float]
    values: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0


class Judge:
    """Every detector, ready to look at candidates.

    Attributes:
        baselines: task to what was recorded of the reference.
        limits: task to limits; the defaults of each candidate's precision where there are none.
        ids: the text that detectors of outputs see.
        reference: what the reference says about it.
    """

    def __init__(
        self,
        reference: HookedModel,
        baselines: Mapping[str, Recording],
        limits: Mapping[str, Limits] | None = None,
        ids: Tensor | None = None,
    ) -> None:
        self.baselines, self.limits = baselines, limits or {}
        self.ids = evaluation_text() if ids is None else ids
        self.reference: Outputs = outputs(reference, self.ids)

    def row(self, candidate: LabelledCandidate) -> Row:
        """Builds the candidate, measures it on every task, and lets it run the evaluation text."""
        start = time.perf_counter()
        model = candidate.build()
        verdicts: dict[str, Verdict] = {}
        words: dict[str, str] = {}
        with computing_threads(candidate.threads) if candidate.threads else nullcontext():
            scores = output_scores(self.reference, outputs(model, self.ids))
            for task, baseline in self.baselines.items():
                try:
                    verdicts[task] = self._verdict(candidate, model, task, baseline)
                    words[task] = verdicts[task].word
                except CircuitcheckError:
                    words[task] = REFUSED
        return Row(
            name=candidate.name,
            kind=candidate.kind,
            family=candidate.family,
            truth=candidate.truth,
            tasks=list(candidate.tasks),
            precision=candidate.precision,
            severity=candidate.severity,
            run=candidate.run,
            word=REFUSED if REFUSED in words.values() else word(verdicts.values()),
            words=words,
            missed_tasks=[task for task in candidate.tasks if words[task] == "PASS"],
            red=_red(verdicts),
            scores=scores | _scores(verdicts, refused=REFUSED in words.values()),
            values=_values(verdicts),
            seconds=time.perf_counter() - start,
        )

    def _verdict(self, candidate: LabelledCandidate, model: HookedModel, task: str, baseline: Recording) -> Verdict:
        recording = baseline if candidate.order is None else reordered(baseline, candidate.order)
        return judge(measure(model, recording), self.limits.get(task))


def _scores(verdicts: Mapping[str, Verdict], *, refused: bool) -> dict[str, float]:
    scores = our_scores(verdicts) | task_scores(verdicts.values()) if verdicts else {}
    return scores | {"circuitcheck": math.inf} if refused else scores


def _red(verdicts: Mapping[str, Verdict]) -> list[str]:
    return [
        f"{task}/{criterion.name}"
        for task, verdict in verdicts.items()
        for criterion in verdict.criteria
        if criterion.verdict != "PASS"
    ]


def _values(verdicts: Mapping[str, Verdict]) -> dict[str, list[float]]:
    return {
        f"{task}/{criterion.name}": [criterion.value.value, criterion.value.low, criterion.value.high, criterion.limit]
        for task, verdict in verdicts.items()
        for criterion in verdict.criteria
    }


def reordered(baseline: Recording, seed: int) -> Recording:
    """The same recording with its prompts in another order."""
    order = np.random.default_rng(seed).permutation(len(baseline.task.pairs))
    place = {int(old): new for new, old in enumerate(order)}
    solved = sorted(baseline.solved, key=lambda old: place[old])
    columns = [baseline.solved.index(old) for old in solved]
    changes: dict[str, Any] = {
        "task": Task(baseline.task.name, tuple(baseline.task.pairs[old] for old in order)),
        "metric": baseline.metric[order],
        "counterfactual": baseline.counterfactual[order],
        "solved": tuple(place[old] for old in solved),
        "ablated": {kind: values[:, columns] for kind, values in baseline.ablated.items()},
        "z": _reordered_values(baseline.z, place),
        "gradient": _reordered_values(baseline.gradient, place),
    }
    return replace(baseline, **changes)


def _reordered_values(values: Activations, place: Mapping[int, int]) -> Activations:
    kept = sorted(range(len(values.index)), key=lambda number: place[values.index[number]])
    starts = np.concatenate([[0], np.cumsum(values.lengths)])
    tokens = [token for number in kept for token in range(starts[number], starts[number + 1])]
    return Activations(
        index=tuple(place[values.index[number]] for number in kept),
        lengths=tuple(values.lengths[number] for number in kept),
        groups=tuple(group[tokens] for group in values.groups),
    )
