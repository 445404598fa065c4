"""Makes one candidate, lets the gate and every other detector see it, and keeps all that was measured."""

from __future__ import annotations

import math
import time
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from circuitcheck import HookedModel, Task, hook_module, record_reference
from circuitcheck.baseline.baseline import Baseline
from circuitcheck.core.activations import Activations
from circuitcheck.core.errors import CircuitcheckError
from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import Prompts
from circuitcheck.core.reading import Reading
from circuitcheck.core.results import Verdict
from circuitcheck.core.runtime import Work
from circuitcheck.gate.decide import decide
from circuitcheck.stats.drift import drift_sums
from detection.detectors import Outputs, our_scores, output_scores, outputs, task_scores
from detection.families import FAMILIES
from detection.family import Family
from detection.quantizing import quantize
from detection.subjects import Model, half_of
from detection.truth import (
    Answers,
    Effect,
    answers,
    as_json,
    effect,
    known_part,
    lost_share,
    reference_answers,
    severity,
    shares_of,
    truth_of,
)

REFUSED = "REFUSED"
"""The word for a candidate that the gate will not measure, such as one whose heads do nothing at all."""


@dataclass(frozen=True)
class Case:
    """Names one candidate on one task, and fixes everything about it.

    Attributes:
        model, task, family: by name.
        seed: which variant of the family.
        precision: what it claims.
    """

    model: str
    task: str
    family: str
    seed: int
    precision: str

    @property
    def name(self) -> str:
        """Different for every case."""
        return f"{self.model}/{self.task}: {self.family} {self.seed}, {self.precision}"

    @property
    def half(self) -> str:
        """`choose` where both model and family are for choosing, else what is new: `model`, `family` or `both`."""
        new = [what for what in ("model", "family") if half_of(getattr(self, what)) == "report"]
        return {0: "choose", 1: new[0] if new else "", 2: "both"}[len(new)]


@dataclass(frozen=True)
class Row:
    """What every detector says about one candidate.

    Attributes:
        model, task, family, seed, precision, half: of the case.
        truth: see `detection.truth`.
        word: our verdict: PASS, INCONCLUSIVE, FAIL or REFUSED.
        red: criteria that do not pass; of a refused one what it was refused for.
        scores: detector to score.
        values: criterion to value, low, high and limit.
        touched: head to the part of it that a fault changes, where it is one of heads.
        lost: share of the answers to fresh prompts that the candidate loses.
        lost_plainly: that plain rounding to its precision loses; 0 for benign ones.
        alone: what the fault does without rounding.
        taken: its severity by where it is.
        seconds: that making and measuring it took.
    """

    model: str
    task: str
    family: str
    seed: int
    precision: str
    half: str
    truth: str
    word: str
    red: list[str]
    scores: dict[str, float]
    values: dict[str, list[float]] = field(default_factory=dict)
    touched: dict[str, float] = field(default_factory=dict)
    lost: float = 0.0
    lost_plainly: float = 0.0
    alone: dict[str, float] | None = None
    taken: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Watched(HookedModel):
    """A model that remembers what the gate was told.

    Attributes:
        told: everything that was asked for, in order: what, and plain data.
    """

    told: list[dict[str, Any]] = field(default_factory=list)

    def metric(self, prompts: Prompts, *, counterfactual: bool = False) -> Any:
        """As it is."""
        found = super().metric(prompts, counterfactual=counterfactual)
        self.told.append({"what": "metric", "index": prompts.index, "counterfactual": counterfactual, "values": found})
        return found

    def patched(self, prompts: Prompts, patch: Patch, work: Work) -> Any:
        """As it is."""
        found = super().patched(prompts, patch, work)
        how = patch.values if isinstance(patch.values, str) else "given"
        sets = [list(units) for units in patch.sets]
        self.told.append({"what": "patched", "index": prompts.index, "sets": sets, "by": how, "values": found})
        return found

    def activations(self, prompts: Prompts, kind: str) -> Activations:
        """As they are."""
        found = super().activations(prompts, kind)
        self.told.append({"what": "activations", "kind": kind, "values": found})
        return found

    def reading(self, kind: str, tokens: Any, amplitudes: Any = None) -> Reading:
        """As it is."""
        found = super().reading(kind, tokens, amplitudes)
        self.told.append({"what": "reading", "kind": kind, "values": found})
        return found


class Bench:
    """One model, its baselines, and what its reference says.

    Attributes:
        model: the reference with its tasks.
        cache: where trained weights are kept.
        prompts: of each task, the most that the gate may look at.
    """

    def __init__(self, model: Model, cache: Path, prompts: int) -> None:
        self.model, self.cache, self.prompts = model, cache, prompts
        self.reference = hook_module(model.module, name=model.name)

    @cached_property
    def outputs(self) -> Outputs:
        """What the reference says to the evaluation text."""
        return outputs(self.reference, self.model.evaluation)

    def baseline(self, task: str) -> Baseline:
        """What is recorded of it, once."""
        gate = Task(task, self.model.tasks[task].gate.pairs[: self.prompts])
        return self.model.once(f"baseline {task}", lambda: record_reference(self.reference, gate))  # type: ignore[no-any-return]

    def row(self, case: Case) -> tuple[Row, dict[str, Any]] | None:
        """The row, and everything that was measured as plain data and arrays; None where the family does not apply."""
        start, family = time.perf_counter(), FAMILIES[case.family]
        try:
            module, touched = family.make(self.model, case.seed, case.precision, self.cache)
        except LookupError:
            return None
        baseline, fresh = self.baseline(case.task), reference_answers(self.model, case.task)
        watched = _watched(module, case)
        scores = output_scores(self.outputs, outputs(watched, self.model.evaluation))
        found = answers(module, self.model.tasks[case.task].fresh, profiled=False)
        lost, lost_plainly, alone = lost_share(fresh, found), self._lost_plainly(case), self._alone(case, family)
        taken = severity(shares_of(self.model)[case.task], touched)
        verdict, red = None, []
        try:
            verdict = decide(watched, baseline, curves=False)
            red = [one.name for one in verdict.criteria if one.verdict != "PASS"]
        except CircuitcheckError as error:
            red = [str(error)]
        row = Row(
            **asdict(case),
            half=case.half,
            truth=truth_of(
                is_benign=family.benign,
                lost=lost,
                lost_plainly=lost_plainly,
                alone=alone,
                taken=taken,
                in_circuit=known_part(self.model.circuit, touched),
            ),
            word=REFUSED if verdict is None else verdict.word,
            red=red,
            scores=scores | _scores(case.task, verdict),
            values=_values(verdict),
            touched=as_json(touched),
            lost=lost,
            lost_plainly=lost_plainly,
            alone=None if alone is None else asdict(alone),
            taken=taken,
            seconds=time.perf_counter() - start,
        )
        raw = {
            "measurement": None if verdict is None else asdict(verdict.measurement),
            "fresh": _plain_answers(found),
            "told": [one for one in watched.told if one["what"] in ("metric", "patched")],
            "writes": write_sums(baseline, watched),
        }
        return row, raw

    def _alone(self, case: Case, family: Family) -> Effect | None:
        if family.benign:
            return None
        task = case.task

        def compare() -> Effect:
            module, _ = family.alone(self.model, case.seed, self.cache)
            return effect(reference_answers(self.model, task), answers(module, self.model.tasks[task].fresh))

        return self.model.once(f"alone {task} {case.family} {case.seed}", compare)  # type: ignore[no-any-return]

    def _lost_plainly(self, case: Case) -> float:
        """What plain rounding to the same precision loses; only for faults."""
        if FAMILIES[case.family].benign:
            return 0.0

        def compare() -> float:
            module = deepcopy(self.model.module)
            quantize(module, case.precision)
            found = answers(module, self.model.tasks[case.task].fresh, profiled=False)
            return lost_share(reference_answers(self.model, case.task), found)

        return self.model.once(f"plainly {case.task} {case.precision}", compare)  # type: ignore[no-any-return]

    def raw(self, task: str) -> dict[str, Any]:
        """What there is of the reference, as plain data and arrays."""
        baseline = self.baseline(task)
        return {
            "model": self.model.name,
            "task": task,
            "units": list(baseline.measured),
            "clusters": baseline.task.clusters,
            "fresh_clusters": self.model.tasks[task].fresh.clusters,
            "solved": list(baseline.solved),
            "part": list(baseline.z.index),
            "metric": baseline.metric,
            "counterfactual": baseline.counterfactual,
            "ablated": baseline.ablated,
            "ceiling": baseline.ceiling,
            "noise": baseline.noise,
            "roundings": [asdict(one) for one in baseline.roundings],
            "circuit": None if self.model.circuit is None else sorted(self.model.circuit),
            "fresh": _plain_answers(reference_answers(self.model, task)),
        }


def _watched(module: nn.Module, case: Case) -> Watched:
    model = hook_module(module, name=case.model, precision=case.precision)
    return Watched(**{name: getattr(model, name) for name in model.__dataclass_fields__})


def _plain_answers(found: Answers) -> dict[str, Any]:
    return {"metric": found.metric, "importance": found.importance}


def write_sums(baseline: Baseline, watched: Watched) -> dict[str, Any]:
    """Squared sums of what units write, read in logits: of single units, and of each layer's units together.

    Heads are compared by number; where a candidate renumbers them, its measurement says so.

    Returns:
        `units`, `units_answer`, `layers`, `layers_answer`: each with `difference`, `reference`, `candidate` and `dot`,
        `[units or layers, prompts]`; empty where the gate never came so far.
    """
    found = {one["what"]: one["values"] for one in watched.told if one.get("kind") == baseline.spec.unit}
    if not {"activations", "reading"} <= found.keys():
        return {}
    sums = {}
    sides = [baseline.reading.writes(baseline.z), found["reading"].writes(found["activations"])]
    for name, change in (("units", lambda side: side), ("layers", _together)):
        ours, theirs = (change(side) for side in sides)
        try:
            sums[name] = asdict(drift_sums(ours, theirs))
            sums[f"{name}_answer"] = asdict(drift_sums(ours.answer_position(), theirs.answer_position()))
        except CircuitcheckError:
            return {}
    return {name: {key: np.float32(value) for key, value in of.items()} for name, of in sums.items()}


def _together(writes: Activations) -> Activations:
    """Each layer's units as one."""
    return Activations(writes.index, writes.lengths, tuple(group.sum(1, keepdims=True) for group in writes.groups))


def _scores(task: str, verdict: Verdict | None) -> dict[str, float]:
    if verdict is None:
        return {"circuitcheck": math.inf}
    return our_scores({task: verdict}) | task_scores([verdict])


def _values(verdict: Verdict | None) -> dict[str, list[float]]:
    if verdict is None:
        return {}
    return {one.name: [one.value.value, one.value.low, one.value.high, one.limit] for one in verdict.criteria}
