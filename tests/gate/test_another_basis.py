"""What computes the same in another basis is the same; what only looks like it is not. In full: benchmarks/bases.py."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import tiny_circuits
import tiny_models
from detection.anatomy import head_maps
from detection.bases import KINDS, change_basis
from detection.lookalikes import plant, targets
from detection.rounding import round_to
from quick_recording import record

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.core.results import Verdict
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.judge import judge
from circuitcheck.gate.measure import measure
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.load import hook_module, load_model
from circuitcheck.tasks.named import load_task

MODELS = ("embedded", "llama", "gpt2")
PROMPTS = 40
SEEDS = {"llama": 0, "gpt2": 1}
"""Random circuits that rounding to 4 bits moves little."""

FLOAT = 1e-5
"""What float32 in another order leaves of a relative difference, with some room: 1e-6 is typical."""

Edit = Callable[[Any], None]


@cache
def reference(name: str) -> tuple[HookedModel, Baseline]:
    model = load_model("embedded", device="cpu") if name == "embedded" else tiny_models.tiny_model(name, SEEDS[name])
    task = (
        load_task("ioi", model.tokenizer, prompts=PROMPTS)
        if name == "embedded"
        else tiny_circuits.solvable_task(model, prompts=PROMPTS)
    )
    return model, record(model, task, MeasurementSpec(draws=200))


def gated(name: str, precision: str, *edits: Edit) -> Verdict:
    model, baseline = reference(name)
    module = deepcopy(model.module)
    for edit in edits:
        edit(module)
    round_to(module, precision)
    candidate = hook_module(module, tokenizer=model.tokenizer, name=model.name, precision=precision)
    return judge(measure(candidate, baseline, curves=False))


@cache
def plain(name: str) -> Verdict:
    return gated(name, "int4-rtn")


def basis(kind: str) -> Edit:
    return lambda module: change_basis(module, kind)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_in_float_nothing_has_changed(name, kind):
    verdict = gated(name, "f32", basis(kind))
    circuit = verdict.measurement.circuit
    assert verdict.word == "PASS", [judgement.message for judgement in verdict.criteria]
    assert circuit.drift_median.value < circuit.drift_largest.value < FLOAT
    assert circuit.profile_distance.value < FLOAT
    assert circuit.ranking.agreement.value == pytest.approx(1, abs=FLOAT)
    assert circuit.repair.diagnosis == "no damage"
    assert circuit.repair.unrepaired.value < FLOAT
    moved = max(unit.drift_z for unit in circuit.units)
    # renumbered heads are compared with those whose part they play
    assert moved < FLOAT if kind in ("stream rotated", "heads renumbered") else moved > 0.1


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_four_bits_do_what_they_do_to_the_original(name, kind):
    verdict = gated(name, "int4-rtn", basis(kind))
    circuit, beside = verdict.measurement.circuit, plain(name).measurement.circuit
    assert verdict.word != "FAIL", [judgement.message for judgement in verdict.criteria]
    assert circuit.drift_median.value < 1.2 * beside.drift_median.value
    # The seeds are fixed: of few heads the largest depends on which way some weights happen to be rounded.
    assert circuit.drift_largest.value < 1.2 * beside.drift_largest.value


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("fault", ["values rotated", "output flipped", "z times 1.5"])
@pytest.mark.parametrize(("kind", "precision"), [(None, "f32"), ("heads rotated", "int4-rtn")])
def test_look_alikes_do_not_pass(name, fault, kind, precision):
    model, baseline = reference(name)
    importance = dict(zip(baseline.measured, baseline.importance("resample").tolist(), strict=True))
    head, other = targets(importance, head_maps(model.module, 0).per_group)
    edits = [] if kind is None else [basis(kind)]
    verdict = gated(name, precision, lambda module: plant(module, fault, head, other), *edits)
    assert verdict.word != "PASS"
    if precision == "f32":
        assert verdict.word == "FAIL"
        largest = max(verdict.measurement.circuit.units, key=lambda unit: unit.drift)
        assert largest.layer >= head[0]
        assert verdict.measurement.circuit.drift_largest.value > 0.4
