"""The gate is open for other runtimes: one of a few numpy lines goes all the way, with numbers worked out by hand."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from math import isnan, sqrt
from pathlib import Path

import numpy as np
import pytest
from fake_runtime import FakeRuntime, fake_task, off

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.baseline.diff import describe_roundings
from circuitcheck.core.errors import CandidateError, ModelChangedError
from circuitcheck.core.results import Circuit, Verdict
from circuitcheck.core.runtime import Runtime
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.calibrate import calibrate
from circuitcheck.gate.judge import judge
from circuitcheck.gate.measure import measure
from circuitcheck.gate.record import record_reference

SPEC = MeasurementSpec(draws=200)
# Whole numbers and halves are exact; a ratio of sums rounds a few times in float64.
ROUNDING = 1e-12
# Values that write what they are to write are found by least squares, and kept in float32.
SOLVED = 1e-6


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    return record_reference(FakeRuntime(), fake_task(), SPEC, reason="pencil and paper")


@pytest.fixture(scope="module")
def blocks() -> Baseline:
    return record_reference(FakeRuntime(), fake_task(), replace(SPEC, unit="block"))


def circuit_of(candidate: Runtime, baseline: Baseline) -> Circuit:
    circuit = measure(candidate, baseline).circuit
    assert circuit is not None
    return circuit


def words(verdict: Verdict) -> dict[str, str]:
    return {criterion.name: criterion.verdict for criterion in verdict.criteria}


def test_it_is_a_runtime():
    runtime: Runtime = FakeRuntime()
    assert runtime.facts.name == "fake"


def test_recorded_by_hand(baseline):
    assert baseline.metric.tolist() == [11, 18] * 20
    assert baseline.counterfactual.tolist() == [5, 12] * 20  # 2 + 2 + 1 and 6 + 5 + 1
    assert baseline.solved == tuple(range(40))
    assert baseline.z.index == tuple(range(32))
    assert [rows[0, :, :, 0].tolist() for rows in baseline.z.rows([1])] == [[[5, 5], [5, 6], [5, 7]]]
    assert [rows[0, :, :, 0].tolist() for rows in baseline.gradient.rows([1])] == [[[0, 0], [0, 0], [2, 1]]]
    # The first token is larger by 2 in the clean prompts: head 0 loses 2 * 2, head 1 the 2 once.
    assert baseline.importance("resample").tolist() == [4, 2]
    assert baseline.importance("zero").tolist() == [(6 + 10) / 2, (4 + 7) / 2]
    # At the last position head 0 has 3, 1, 5, 3, with a mean of 3, and head 1 has 4, 2, 7, 5, with a mean of 4.5.
    assert baseline.effects("mean")[:, :2].tolist() == [[0, 4], [-0.5, 2.5]]
    assert baseline.ceiling == 1
    assert baseline.noise == {"PAPER": {"one prompt a batch": dict.fromkeys(baseline.noise_floor, 0.0)}}


def test_the_reference_passes_its_own_gate(baseline):
    verdict = judge(measure(FakeRuntime(), baseline))
    assert (verdict.word, verdict.broken) == ("PASS", ())
    circuit = verdict.measurement.circuit
    assert circuit.drift_largest.value == circuit.profile_distance.value == circuit.metric_change.value == 0
    assert circuit.repair.diagnosis == "no damage"


def test_half_a_head_by_hand(baseline):
    """Head 1 writes half: m is 2 less of 11, and 3.5 less of 18."""
    circuit = circuit_of(off(0.5), baseline)
    first, second = circuit.units
    assert (first.unit, second.unit) == ("0.0", "0.1")
    assert (circuit.metric_ref.value, circuit.metric_cand.value) == (14.5, 11.75)
    assert circuit.metric_change.value == pytest.approx(2.75 / 14.5, rel=ROUNDING)
    assert circuit.metric_change.low == pytest.approx(circuit.metric_change.high, rel=ROUNDING)
    assert (first.drift, second.drift, circuit.drift_median.value, circuit.drift_largest.value) == (0, 0.5, 0.25, 0.5)
    assert (first.drift_z, second.drift_z) == (0, 0.5)  # one number a unit, so its write is a multiple of it
    assert (first.importance_cand.value, second.importance_cand.value) == (4, 1)
    assert (second.importance_change.value, circuit.profile_distance.value) == (-1, 0.25)
    assert (second.rank_ref, second.rank_cand, circuit.ranking.agreement.value) == (2, 2, 1)
    assert second.cosine == pytest.approx(1, rel=ROUNDING)
    # To first order, which is exact here, all is in head 1.
    assert (first.fragility, second.fragility) == pytest.approx((0, 2.75), rel=SOLVED)
    bound = circuit.bound
    assert (bound.degradation, bound.estimate, bound.bound) == pytest.approx((2.75, 2.75, 2.75), rel=SOLVED)
    assert (bound.coverage, bound.relative_error) == pytest.approx((1, 0), abs=SOLVED)


def test_repair_by_hand(baseline):
    circuit = circuit_of(off(0.5), baseline)
    first, second = circuit.units
    assert circuit.repair.damage.value == 2.75
    assert (first.repair_gain, second.repair_gain) == pytest.approx((0, 2.75), rel=SOLVED)
    assert circuit.repair.unrepaired.value == pytest.approx(0, abs=SOLVED)
    assert circuit.repair.recovery.value == pytest.approx(1, rel=SOLVED)
    shares = {order: [point.recovery.value for point in points] for order, points in circuit.repair.curves.items()}
    assert shares.pop("importance") == pytest.approx([0, 1], abs=SOLVED)  # head 0 matters more, and has no damage
    assert list(shares) == ["drift", "importance x drift", "fragility", "reversed"]
    assert all(recovered == pytest.approx([1, 1], abs=SOLVED) for recovered in shares.values())
    assert circuit.repair.areas["drift"].value == pytest.approx(1, rel=SOLVED)


def test_verdicts_by_hand(baseline):
    half = judge(measure(off(0.5), baseline))
    # As rounding to 4 bits does; 0.19 of the metric is within 0.2, and 0.25 of the largest importance within 0.3.
    assert words(half) == dict.fromkeys(words(half), "PASS")
    excess = half.measurement.circuit.excess
    assert (excess.precision, excess.worst_unit, excess.worst_layer) == ("4-bit", "0.1", 0)
    # The one unit is all that rounding moves, so that the mean of both is half of its square.
    assert (excess.pooled.value, *excess.units) == pytest.approx((1, 0, 1), rel=1e-6)  # kept in float32
    assert "recovery" in words(half)
    gone = judge(measure(off(0.0), baseline))
    assert gone.word == "FAIL"
    assert gone.broken == ("0.1",)  # moved by 2, with a limit of 0.3 * 4
    values = {criterion.name: criterion.value.value for criterion in gone.criteria}
    assert values["metric_change"] == pytest.approx(5.5 / 14.5, rel=ROUNDING)
    assert (values["excess"], values["excess_layer"], values["excess_unit"]) == pytest.approx((2, 2, 2), rel=1e-6)
    assert values["profile_distance"] == 0.5
    assert "drift_largest" not in values, "limits of other models"
    assert values["behaviour_kept"] == 1
    assert (values["unrepaired"], values["recovery"]) == pytest.approx((0, 1), abs=SOLVED)
    failing = ("metric_change", "excess", "excess_layer", "profile_distance")
    assert {name for name, word in words(gone).items() if word == "FAIL"} - {"excess_unit"} == set(failing)
    (untold,) = half.untold
    assert untold.startswith("ranking is no criterion here: 2 units stand out")


def test_what_rounding_does_is_recorded(baseline):
    coarse, fine = baseline.roundings
    assert (coarse.precision, coarse.name, fine.name) == ("4-bit", "coarse", "fine")
    assert coarse.measures["metric_change"] == pytest.approx(2.75 / 14.5, rel=1e-6)  # kept in float32
    assert coarse.measures["behaviour_kept"] == 1
    # Half of 6 and 8, and of 5, 6 and 7, read at the tokens that are kept; a quarter is a quarter of the squares.
    assert coarse.squares.shape == (2, 32)
    assert coarse.squares[0].tolist() == [0] * 32
    assert coarse.squares[1].tolist() == pytest.approx((4 * fine.squares[1]).tolist(), rel=1e-6)
    # Heads write (6, 6) and (3, 4), and (10, 10, 10) and (5, 6, 7): the root of 0.25 * 135 / 507 is 0.26. An answer
    # of 9 logits in place of 11 diverges by exp(-9) - 3 exp(-11), 7.3e-5 nats, and of half of the prompts.
    rows = describe_roundings(baseline)
    assert rows[-1].split() == ["4-bit", "2", "0.26", "0.25", "1", "0", "0.19", "3.7e-05"]


def test_integrated_gradients_of_the_fake_are_the_first_order(baseline):
    bound = measure(off(0.5), baseline, reference=FakeRuntime()).circuit.bound
    assert bound.integrated.estimate == pytest.approx(2.75, rel=1e-6)  # points of the path are float32


def test_another_kind_of_unit_takes_no_change_outside_the_fake(blocks):
    assert [blocks.layout.label(unit) for unit in blocks.measured] == ["attention 0", "mlp 0"]
    assert blocks.importance("resample").tolist() == [6, 0]  # the last token is the same in the counterfactual
    assert blocks.importance("zero").tolist() == [13.5, 1]
    circuit = circuit_of(off(0.5), blocks)
    attention, mlp = circuit.units
    # Positions (9, 10) and (15, 16, 17), off by (1.5, 2) and (2.5, 3, 3.5).
    assert attention.drift == pytest.approx(sqrt(33.75 / 951), rel=ROUNDING)
    assert (mlp.drift, attention.importance_change.value) == (0, -1)
    assert circuit.profile_distance.value == pytest.approx(1 / 6, rel=ROUNDING)
    assert (attention.fragility, attention.repair_gain) == pytest.approx((2.75, 2.75), rel=SOLVED)
    assert mlp.repair_gain == 0
    assert judge(measure(off(0.5), blocks)).word == "PASS"
    assert measure(off(0.5), blocks).unit == "block"


@pytest.mark.parametrize("unit", ["head", "block"])
def test_baselines_of_the_fake_round_trip(unit, baseline, blocks, tmp_path):
    recorded = {"head": baseline, "block": blocks}[unit]
    written = recorded.save(tmp_path)
    loaded = Baseline.load(written[0])
    assert (loaded.layout, loaded.measured, loaded.reason) == (recorded.layout, recorded.measured, recorded.reason)
    for ours, theirs in zip(recorded.z.groups, loaded.z.groups, strict=True):
        assert np.array_equal(ours, theirs)
    before, after = (circuit_of(off(0.5), one) for one in (recorded, loaded))
    assert repr(before) == repr(after)  # NaN is not equal to itself
    loaded.save(tmp_path / "again")
    assert [file.read_bytes() for file in written] == [
        (tmp_path / "again" / file.name).read_bytes() for file in written
    ]


def test_calibration_tries_what_the_runtime_knows(baseline):
    calibrated = calibrate(FakeRuntime(), baseline, reload=FakeRuntime)
    assert list(calibrated.noise["PAPER"]) == ["one prompt a batch", "prompt order: reversed", "loaded again"]
    assert set(calibrated.noise_floor.values()) == {0.0}


def test_screened_sweep_of_the_fake(baseline):
    screened = record_reference(FakeRuntime(), fake_task(), replace(SPEC, sweep="screened"))
    assert screened.measured == baseline.measured  # one by its gradient, the other as the sample
    assert "screened sweep: 2 of 2 heads were measured" in screened.notes[0]
    assert screened.importance("resample").tolist() == [4, 2]


def test_what_cannot_be_compared_is_refused(baseline, blocks):
    class Wider(FakeRuntime):
        def layout(self, kind):
            layout = super().layout(kind)
            return replace(layout, groups=(*layout.groups, replace(layout.groups[0], name="1", layer=1)))

    with pytest.raises(CandidateError, match="it has 4 heads, the reference 2"):
        measure(Wider(), baseline)
    with pytest.raises(CandidateError, match="it has 3 blocks, the reference 2"):
        measure(Wider(), blocks)


def test_a_fake_that_changes_under_measurement_is_refused(baseline):
    class Wearing(FakeRuntime):
        def activations(self, prompts, kind):
            self.gains[0] = 2.0
            return super().activations(prompts, kind)

    with pytest.raises(ModelChangedError, match="gains were"):
        measure(Wearing(), baseline)


def test_a_candidate_that_is_not_damaged_has_no_gains(baseline):
    assert all(isnan(unit.repair_gain) for unit in circuit_of(FakeRuntime(), baseline).units)


WITHOUT_TORCH = """
import sys, tempfile
from dataclasses import replace
from pathlib import Path
from fake_runtime import FakeRuntime, fake_task, off
from circuitcheck.baseline.baseline import Baseline
from circuitcheck.baseline.diff import describe_roundings
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.accept import accept, write
from circuitcheck.gate.judge import judge
from circuitcheck.gate.measure import measure
from circuitcheck.gate.record import record_reference
for unit in ("head", "block"):
    spec = MeasurementSpec(draws=100, unit=unit)
    with tempfile.TemporaryDirectory() as folder:
        accepted = accept(FakeRuntime(), fake_task(), spec, Path(folder), "new", "no torch here")
        assert accepted.outcome.startswith("accepted"), accepted
        write([accepted], Path(folder))
        name = "pencil.json" if unit == "head" else f"pencil.{unit}.json"
        baseline = Baseline.load(Path(folder) / name)
    verdict = judge(measure(off(0.0), baseline))
    assert verdict.word == "FAIL"
"""

REPORTED = """
    from circuitcheck.report.text import render
    shown = render([verdict])
    assert "FAIL" in shown and verdict.broken[0] in shown, shown
"""


@pytest.mark.parametrize("reported", [False, True])
def test_no_torch_is_needed_from_recording_to_the_report(reported):
    script = WITHOUT_TORCH + (REPORTED if reported else "")
    script += '\nfound = {"torch", "transformers"} & set(sys.modules)\nassert not found, found\n'
    helpers = Path(__file__).parents[1] / "helpers"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(helpers)!r})\n{script}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
