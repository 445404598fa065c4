"""Limits: defaults that can be held, overrides that do what they say, and nothing that is ignored."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitcheck.baseline.baseline import Baseline, baseline_files
from circuitcheck.core.candidates import PRECISIONS
from circuitcheck.core.errors import ConfigurationError
from circuitcheck.gate.judge import NOISE
from circuitcheck.runtimes.pytorch.quantizers.recipes import RECIPES
from circuitcheck.tasks.named import BUILT_IN
from circuitcheck.verdict.limits import DRIFT_LIMITS, NAMES, SAME_BITS, Limits, check_overrides, limits_for

BASELINES = Path(__file__).parents[2] / "baselines" / "embedded"


def test_limits_on_drift_alone_depend_on_the_precision():
    known = {precision: asdict(limits_for(precision, "ioi")) for precision in (*DRIFT_LIMITS, "anything else")}
    for limits in known.values():
        others = {name: value for name, value in limits.items() if not name.startswith("drift")}
        assert others == {name: value for name, value in asdict(Limits()).items() if not name.startswith("drift")}
    assert limits_for("anything else", "ioi") == Limits()


def test_every_precision_that_can_be_made_has_its_limits_from_fine_to_coarse():
    assert set(PRECISIONS) <= set(DRIFT_LIMITS) | set(SAME_BITS)
    assert not set(DRIFT_LIMITS) & set(SAME_BITS)
    assert set(SAME_BITS.values()) <= set(DRIFT_LIMITS)
    names = ["f32", "f16", "bf16", "8-bit", "int8-sim", "float8", "4-bit", "3-bit", "2-bit"]
    assert list(DRIFT_LIMITS) == names
    order = [DRIFT_LIMITS[precision] for precision in names]
    assert order == sorted(order)
    assert all(median < largest for median, largest in order)


def test_specs_share_the_limits_of_their_bits():
    for spec, bits in SAME_BITS.items():
        assert limits_for(spec, "ioi") == limits_for(bits, "ioi")
        digits = next(character for character in spec if character.isdigit())
        assert bits == ("float8" if "float8" in spec else f"{digits}-bit")
    assert set(RECIPES) <= set(SAME_BITS)


@pytest.mark.parametrize("precision", [*DRIFT_LIMITS, "anything else"])
def test_every_default_is_a_limit_that_something_can_pass_and_something_can_miss(precision):
    for name, value in asdict(limits_for(precision, "ioi")).items():
        check_overrides({name: value})
        assert math.isfinite(value)
        # A drift of 1 is as far as z is long; rounding to 3 and 2 bits goes further.
        assert 0 < value < (4 if name.startswith("drift") else 1), name


@pytest.mark.parametrize("task", BUILT_IN)
@pytest.mark.parametrize("precision", [*DRIFT_LIMITS, "anything else"])
def test_every_default_lies_above_the_noise_of_the_committed_baselines(task, precision):
    floor = Baseline.load(baseline_files(BASELINES, task)[0]).noise_floor
    limits = limits_for(precision, task)
    for name, noise in NOISE.items():
        # Ten times, so that another machine's noise does not turn a green gate into a refused one.
        assert getattr(limits, name) > 10 * floor[noise]
    assert limits.ranking_agreement < 1 - 10 * floor["ranking_change"]


def test_overrides_go_from_the_general_to_the_special():
    overrides = {
        "profile_distance": 0.2,
        "drift_median": 0.01,
        "int8-sim": {"drift_median": 0.05, "ioi": {"drift_median": 0.08, "recovery": 0.6}},
    }
    assert limits_for("f16", "ioi", overrides) == replace(
        limits_for("f16", "ioi"), profile_distance=0.2, drift_median=0.01
    )
    assert limits_for("int8-sim", "facts", overrides).drift_median == 0.05
    special = limits_for("int8-sim", "ioi", overrides)
    assert (special.profile_distance, special.drift_median, special.recovery) == (0.2, 0.08, 0.6)
    assert special.drift_largest == DRIFT_LIMITS["int8-sim"][1]


@given(
    st.dictionaries(st.sampled_from(NAMES), st.floats(0, 10)),
    st.dictionaries(st.sampled_from(NAMES), st.floats(0, 10)),
    st.dictionaries(st.sampled_from(NAMES), st.floats(0, 10)),
)
def test_the_most_special_override_wins(everywhere, for_precision, for_task):
    overrides = {**everywhere, "f16": {**for_precision, "ioi": for_task}}
    assert asdict(limits_for("f16", "ioi", overrides)) == {
        **asdict(limits_for("f16", "ioi")),
        **everywhere,
        **for_precision,
        **for_task,
    }
    elsewhere = asdict(limits_for("bf16", "ioi", overrides))
    assert elsewhere == {**asdict(limits_for("bf16", "ioi")), **everywhere}


BAD = [
    ({"profile_distanc": 0.1}, r"limits\.profile_distanc: there is no such limit; known are behaviour_kept, "),
    ({"f16": {"drift": 0.1}}, r"limits\.f16\.drift: there is no such limit"),
    ({"f16": {"ioi": {"drift": 0.1}}}, r"limits\.f16\.ioi\.drift: there is no such limit"),
    ({"recovery": "0.5"}, r"limits\.recovery is '0\.5', but must be a number from 0 up"),
    ({"recovery": True}, "limits.recovery is True, but"),
    ({"recovery": None}, "limits.recovery is None, but"),
    ({"recovery": [0.5]}, r"limits.recovery is \[0.5\], but"),
    ({"f16": {"recovery": float("nan")}}, r"limits\.f16\.recovery is nan, but"),
    ({"recovery": float("inf")}, "limits.recovery is inf, but"),
    ({"recovery": -0.1}, "limits.recovery is -0.1, but"),
    ({"recovery": {"f16": 0.1}}, "limits.recovery is a table, but must be a number"),
    ({"f16": {"ioi": {"more": {"recovery": 0.1}}}}, "limits.f16.ioi.more is a table, but must be a number"),
    ({"f16": 0.1}, r"limits\.f16: there is no such limit"),
]


@pytest.mark.parametrize(("overrides", "message"), BAD)
def test_bad_overrides_are_refused_by_their_path(overrides, message):
    with pytest.raises(ConfigurationError, match=message):
        check_overrides(overrides)


@pytest.mark.parametrize(("overrides", "message"), BAD)
@pytest.mark.parametrize("precision", ["f16", "bf16"])
def test_bad_overrides_are_never_ignored_when_limits_are_made(overrides, message, precision):
    with pytest.raises(ConfigurationError, match=message):
        limits_for(precision, "ioi", overrides)


def test_whole_numbers_are_numbers():
    assert limits_for("f16", "ioi", {"profile_distance": 1}).profile_distance == 1
