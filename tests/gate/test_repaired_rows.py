"""What is repaired costs a forward pass each, so nothing is repaired that nobody asks for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_circuits
import tiny_models
from quick_recording import record

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.core.activations import Activations
from circuitcheck.core.results import Circuit
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.core.units import Unit
from circuitcheck.gate.measure import measure
from circuitcheck.runtimes.pytorch.hooked import HookedModel

PROMPTS, PART = 8, 5


class Counting(HookedModel):
    """Keeps which sets of heads, and which of whole modules, were repaired."""

    def patched(self, prompts, patch, *arguments, **options):
        if isinstance(patch.values, Activations):
            (REPAIRED if patch.kind == "head" else MODULES).extend(patch.sets)
        return super().patched(prompts, patch, *arguments, **options)


REPAIRED: list[tuple[Unit, ...]] = []
MODULES: list[tuple[Unit, ...]] = []


def counting(model: HookedModel) -> Counting:
    REPAIRED.clear()
    MODULES.clear()
    return Counting(**{name: getattr(model, name) for name in model.__dataclass_fields__})


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return tiny_models.tiny_model()


@pytest.fixture(scope="module")
def baseline(model) -> Baseline:
    return record(model, tiny_circuits.solvable_task(model, PROMPTS), MeasurementSpec(draws=100, part=PART))


def measured(candidate: HookedModel, baseline: Baseline, **options: bool) -> tuple[Circuit, int]:
    rows: list[int] = []
    circuit = measure(candidate, baseline, advance=rows.append, **options).circuit
    assert circuit is not None
    return circuit, sum(rows)


def test_a_candidate_without_damage_is_repaired_once(model, baseline):
    circuit, rows = measured(counting(model), baseline)
    assert circuit.repair.diagnosis == "no damage"
    assert rows == 8 * PROMPTS + PART  # eight heads ablated, and all heads repaired at once
    assert [baseline.layout.units] == REPAIRED
    assert all(np.isnan(unit.repair_gain) for unit in circuit.units)


def test_a_damaged_candidate_is_repaired_unit_by_unit_and_along_every_order(model, baseline):
    circuit, rows = measured(counting(tiny_circuits.scale_head(model, 0, 2, -3.0)), baseline)
    assert rows == 8 * PROMPTS + (len(REPAIRED) + len(MODULES)) * PART
    assert len(MODULES) == 2 * 4  # each layer's attention and MLP alone, and then more and more of them
    assert REPAIRED[:8] == [(unit,) for unit in baseline.layout.units]
    assert len(REPAIRED) > 20  # five orders and twenty random ones, at 1, 2, 3, 5 and 8 heads
    assert all(np.isfinite(unit.repair_gain) for unit in circuit.units)


def test_without_curves_nothing_is_repaired_alone(model, baseline):
    circuit, rows = measured(counting(tiny_circuits.scale_head(model, 0, 2, -3.0)), baseline, curves=False)
    assert circuit.repair.diagnosis == "damage"
    assert rows == 8 * PROMPTS + PART
    assert all(np.isnan(unit.repair_gain) for unit in circuit.units)


def test_a_screened_sweep_repairs_alone_only_what_it_measured(model, baseline):
    """The others are part of every order, and alone only where one happens to begin with them."""
    some = baseline.measured[1:6]
    kept = [baseline.measured.index(unit) for unit in some]
    screened = replace(
        baseline,
        measured=some,
        ablated={kind: values[kept] for kind, values in baseline.ablated.items()},
        spec=replace(baseline.spec, sweep="screened"),
    )
    circuit, rows = measured(counting(tiny_circuits.scale_head(model, 0, 2, -3.0)), screened)
    assert REPAIRED[: len(some)] == [(unit,) for unit in some]
    assert rows == len(some) * PROMPTS + (len(REPAIRED) + len(MODULES)) * PART
    alone = {units[0] for units in REPAIRED if len(units) == 1}
    gains = {
        unit for unit, found in zip(baseline.layout.units, circuit.units, strict=True) if np.isfinite(found.repair_gain)
    }
    assert gains == alone >= set(some)
    assert baseline.layout.units in REPAIRED
