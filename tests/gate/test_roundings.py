"""A baseline knows what rounding alone does to its reference, and a candidate is held against that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_circuits
import tiny_models
import torch

from circuitcheck.baseline.diff import describe_roundings
from circuitcheck.core.errors import ModelError
from circuitcheck.core.runtime import Rounding, Work
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.judge import judge
from circuitcheck.gate.measure import measure
from circuitcheck.gate.record import record_reference
from circuitcheck.gate.rounding import with_roundings
from circuitcheck.runtimes.pytorch.quantizers.rtn import quantize_rtn
from circuitcheck.runtimes.pytorch.roundings import stochastic_half
from circuitcheck.verdict.criteria import BY_NAME

# Ratios of float32 sums in another order.
ROUNDING = 1e-5
NEAREST = ("f16", "everything, to nearest")


def way_of(ways, kind):
    (found,) = (one for one in ways if (one.precision, one.name) == kind)
    return found


@pytest.fixture(scope="module")
def model():
    return tiny_models.tiny_model()


@pytest.fixture(scope="module")
def baseline(model):
    """Under every rounding that the runtime knows, as when nothing is said."""
    return record_reference(model, tiny_circuits.solvable_task(model), MeasurementSpec(draws=200))


def test_all_ways_are_measured_and_finer_ones_move_less(model, baseline):
    assert [(one.precision, one.name) for one in baseline.roundings] == [
        (one.precision, one.name) for one in model.roundings(baseline.task.prompts())
    ]
    drift = {one.precision: one.measures["drift"] for one in reversed(baseline.roundings)}  # the first of each remains
    order = ["f16", "bf16", "8-bit", "4-bit", "3-bit", "2-bit"]
    assert [drift[name] for name in order] == sorted(drift[name] for name in order)
    shape = (len(baseline.layout.units), len(baseline.z.index))
    assert all(one.squares.shape == shape for one in baseline.roundings)


def test_what_was_measured_is_what_a_candidate_of_that_kind_shows(model, baseline):
    known = way_of(baseline.roundings, NEAREST)
    circuit = measure(way_of(model.roundings(), NEAREST).make(), replace(baseline, roundings=(known,))).circuit
    moves = np.sqrt(known.squares.mean(-1))
    assert [unit.move for unit in circuit.units] == pytest.approx(moves.tolist(), rel=ROUNDING)
    assert circuit.drift.value == pytest.approx(known.measures["drift"], rel=ROUNDING)
    # No other way is known, so the candidate is as far as rounding goes.
    assert circuit.excess.pooled.value == pytest.approx(1, rel=ROUNDING)
    assert circuit.excess.precision == "f16"
    # Both on the same prompts of the same draw: a ratio of a thing to itself has no width.
    pooled = circuit.excess.pooled
    assert (pooled.low, pooled.high) == pytest.approx((1, 1), rel=ROUNDING)


def test_other_seeds_of_the_same_rounding_are_explained_by_it(model, baseline):
    candidate = replace(tiny_circuits.copy_of(model), precision="int8-rtn")
    quantize_rtn(candidate.module, candidate.structure, 8, stochastic_seed=77)
    excess = measure(candidate, baseline).circuit.excess
    assert excess.precision == "8-bit"
    assert excess.pooled.value < BY_NAME["excess"].limit
    assert len(excess.layers) == 2
    assert excess.layer.value == max(excess.layers) == excess.layers[excess.worst_layer]
    assert excess.unit.value == max(excess.units)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float16, 13), (torch.bfloat16, 16)])
def test_a_shorter_float_is_chosen_at_random_between_its_neighbours_and_in_the_mean_it_is_the_number(dtype, bits):
    """Hand-computed: a fifth of the way from one neighbour to the next, on both sides of zero."""
    step = 2.0**bits * torch.finfo(torch.float32).eps  # between neighbours of 1
    number = torch.tensor([1 + step / 5, -1 - step / 5]).repeat(20000, 1)
    found = stochastic_half(number, dtype, torch.Generator().manual_seed(0))
    assert torch.equal(found.to(dtype).float(), found), "what the shorter float has"
    assert torch.equal(found.abs().unique(), torch.tensor([1, 1 + step]))
    # Standard error of a share of 0.2 in 20,000 is 0.0028.
    assert ((found.abs() > 1).float().mean(0) - 0.2).abs().max() < 4 * 0.0028
    kept = torch.tensor([0.0, 1.0, -2.5])
    assert torch.equal(stochastic_half(kept, dtype, torch.Generator().manual_seed(0)), kept)


def test_a_fault_beside_rounding_is_not_explained_and_its_layer_is_named(model, baseline):
    """One head at 0.7 of its size moves as much as rounding to 8 bits times twenty."""
    candidate = replace(tiny_circuits.scale_head(model, 1, 0, 0.7), precision="int8-rtn")
    verdict = judge(measure(candidate, baseline))
    (message,) = (one.message for one in verdict.criteria if one.name == "excess_layer")
    assert "not explained by 8-bit rounding: " in message
    assert message.endswith("times its drift in layer 1")
    assert verdict.measurement.circuit.excess.worst_unit == "1.0"


def test_a_head_that_hardly_writes_is_no_ratio_of_nothing_to_nothing(model, baseline):
    """Its own rounding is next to nothing, and so is its move: held against all others it does not matter."""
    roundings = tuple(
        replace(one, squares=np.where(np.arange(len(one.squares))[:, None] == 0, 1e-18, one.squares).astype(np.float32))
        for one in baseline.roundings
    )
    one_way = (way_of(roundings, NEAREST),)
    excess = measure(way_of(model.roundings(), NEAREST).make(), replace(baseline, roundings=one_way)).circuit.excess
    known = way_of(baseline.roundings, NEAREST).squares.mean(-1)
    others = known[1:].sum() / len(known)  # what all move in the mean, where the first hardly does
    assert excess.units[0] == pytest.approx(np.sqrt(known[0] / others), rel=ROUNDING)


def test_a_rounding_that_cannot_be_made_is_named_and_the_others_stand(model, baseline):
    def refuse():
        raise ModelError("it overflows")

    ways = [Rounding("f16", "everything", refuse), way_of(model.roundings(), ("bf16", "everything, to nearest"))]
    again = with_roundings(replace(baseline, roundings=()), ways, Work())
    assert [one.precision for one in again.roundings] == ["bf16"]
    assert again.notes[-1] == "Not known is what f16 does to this model (everything): it overflows"
    half = measure(replace(model, precision="f16"), again).circuit
    assert half.excess is None, "limits of other models hold"


def test_accepting_shows_a_row_for_each_precision(baseline):
    lines = describe_roundings(baseline)
    assert lines[0].startswith("what plain rounding alone does to this model on this task")
    assert [line.split()[0] for line in lines[3:]] == list(dict.fromkeys(one.precision for one in baseline.roundings))
    assert describe_roundings(replace(baseline, roundings=())) == []
