"""Limits: defaults that can be held, overrides that do what they say, and nothing that is ignored."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.baseline.names import baseline_file
from circuitcheck.core.candidates import PRECISIONS
from circuitcheck.core.census import Census, WeightKind
from circuitcheck.core.errors import ConfigurationError
from circuitcheck.runtimes.pytorch.quantizers.recipes import RECIPES
from circuitcheck.tasks.named import BUILT_IN
from circuitcheck.verdict.criteria import CRITERIA
from circuitcheck.verdict.limits import (
    DEFAULTS,
    DRIFT_LIMITS,
    KNOWN,
    NAMES,
    SAME_BITS,
    Limits,
    check_overrides,
    limits_for,
    loosened,
)

BASELINES = Path(__file__).parents[2] / "baselines" / "embedded"


def test_limits_on_drift_alone_depend_on_the_precision():
    for precision in DRIFT_LIMITS:
        limits = dict(limits_for(precision, "ioi"))
        assert limits.pop("drift_median") == DRIFT_LIMITS[precision].median
        assert limits.pop("drift_largest") == DRIFT_LIMITS[precision].largest
        assert limits == {name: limit for name, limit in DEFAULTS.items() if limit is not None}


def test_there_is_a_limit_for_every_criterion_and_one_in_nats_where_that_is_another():
    assert (*(criterion.name for criterion in CRITERIA), "metric_change_nats", "unrepaired_nats") == NAMES
    assert [name for name, limit in DEFAULTS.items() if limit is None] == ["drift_median", "drift_largest"]


def test_limits_are_read_by_name_and_cannot_be_changed():
    limits = Limits(drift_median=0.1, drift_largest=math.inf, recovery=0.25)
    assert (limits.drift_median, limits["drift_largest"], limits.recovery) == (0.1, math.inf, 0.25)
    assert (limits.profile_distance, limits.metric_change_nats) == (0.3, 0.2)
    assert list(limits) == list(NAMES)
    assert repr(limits).startswith("Limits(profile_distance=0.3, ranking_agreement=0.8, behaviour_kept=0.9, ")
    with pytest.raises(AttributeError):
        limits.recovery = 0.0
    with pytest.raises(AttributeError, match="there is no limit 'profile_distanc'; known are profile_distance, "):
        _ = limits.profile_distanc
    assert limits == Limits(**limits) == copy.deepcopy(limits) == pickle.loads(pickle.dumps(limits))
    assert limits != Limits(**dict(limits) | {"recovery": 0.5})


def test_limits_that_cannot_be_made():
    with pytest.raises(
        ConfigurationError, match=r"limits\.drift: there is no such limit; known are profile_distance, "
    ):
        Limits(drift=0.1)
    with pytest.raises(ConfigurationError, match="limits drift_median, drift_largest depend on the precision"):
        Limits(recovery=0.1)


def test_every_precision_that_can_be_made_has_its_limits_from_fine_to_coarse():
    assert set(PRECISIONS) <= set(KNOWN)
    assert len(KNOWN) == len(set(KNOWN))
    names = ["f32", "f16", "bf16", "8-bit", "int8-sim", "float8", "8-bit-static", "4-bit", "3-bit", "2-bit"]
    assert list(DRIFT_LIMITS) == names
    limits = [DRIFT_LIMITS[precision] for precision in names]
    # By the largest: rounding of activations, too, moves few heads further and half of them no further.
    assert [limit.largest for limit in limits] == sorted(limit.largest for limit in limits)
    assert all(limit.median < limit.largest for limit in limits)


def test_tables_of_8_bits_hold_for_fixed_scales_too():
    limits = limits_for("8-bit-static", "ioi", {"8-bit": {"profile_distance": 0.1, "ioi": {"recovery": 0.7}}})
    assert (limits.profile_distance, limits.recovery) == (0.1, 0.7)
    assert limits.drift_median == DRIFT_LIMITS["8-bit-static"].median
    assert limits_for("8-bit", "ioi", {"8-bit-static": {"profile_distance": 0.1}}).profile_distance == 0.3


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_plain_floats_of_32_bits_or_more_are_judged_as_float32(name):
    assert limits_for(name, "ioi") == limits_for("f32", "ioi")


@pytest.mark.parametrize("name", ["float8_e4m3fn", "5-bit", "complex64", "F32", ""])
def test_a_precision_without_limits_is_refused(name):
    with pytest.raises(ConfigurationError, match=f"there are no limits on drift for precision '{name}'; known are f32"):
        limits_for(name, "ioi")


CASES = {
    "a spec's own table does not cancel a stricter one of its bits": (
        {"8-bit": {"drift_median": 0.01}, "int8-rtn": {"drift_median": 0.5}},
        0.01,
    ),
    "nor the other way round": ({"8-bit": {"drift_median": 0.5}, "int8-rtn": {"drift_median": 0.01}}, 0.01),
    "nor one for everything": ({"drift_median": 0.01, "int8-rtn": {"drift_median": 0.5}}, 0.01),
    "nor one of a task": ({"int8-rtn": {"drift_median": 0.01, "ioi": {"drift_median": 0.5}}}, 0.01),
    "a task of its bits counts": ({"8-bit": {"ioi": {"drift_median": 0.01}}, "int8-rtn": {"drift_median": 0.5}}, 0.01),
    "unless the user says otherwise": (
        {"8-bit": {"drift_median": 0.01}, "int8-rtn": {"drift_median": 0.5, "looser": True}},
        0.5,
    ),
    "which holds for that table alone": (
        {
            "8-bit": {"drift_median": 0.01},
            "int8-rtn": {"looser": True, "drift_median": 0.5, "ioi": {"drift_median": 1}},
        },
        0.5,
    ),
    "and says nothing where it is false": ({"drift_median": 0.01, "8-bit": {"looser": False, "drift_median": 1}}, 0.01),
}


@pytest.mark.parametrize("case", CASES)
def test_the_strictest_limit_that_applies_holds(case):
    overrides, expected = CASES[case]
    assert limits_for("int8-rtn", "ioi", overrides).drift_median == expected


def test_the_strictest_of_those_from_below_is_the_largest():
    overrides = {"behaviour_kept": 0.95, "8-bit": {"behaviour_kept": 0.5}}
    assert limits_for("int8-rtn", "ioi", overrides).behaviour_kept == 0.95


@pytest.mark.parametrize(
    ("overrides", "message"),
    [({"looser": True}, "limits.looser: there is no such limit"), ({"f16": {"looser": 1}}, "must be true or false")],
)
def test_a_looser_table_says_so_itself(overrides, message):
    with pytest.raises(ConfigurationError, match=message):
        check_overrides(overrides)


def test_what_lets_in_more_than_the_defaults_is_named():
    limits = limits_for(
        "f16", "ioi", {"drift_median": 1e300, "behaviour_kept": 0.0, "recovery": 0.9, "unrepaired": 0.1}
    )
    found = loosened(limits, "f16", "logit_difference")
    assert {row.name: (row.limit, row.default) for row in found} == {
        "behaviour_kept": (0.0, DEFAULTS["behaviour_kept"]),
        "drift_median": (1e300, DRIFT_LIMITS["f16"].median),
    }
    for precision in KNOWN:
        assert loosened(limits_for(precision, "ioi"), precision, "log_probability") == ()


def test_every_level_of_a_census_has_its_limits():
    """A release is called by the bits that were found in it, or by the type of its weights."""
    quantized = [Census((), (), 1, 1, bits, None).level for bits in (8.0, 6.5, 4.0, 3.0, 2.0, 1.58, None)]
    float8 = Census((WeightKind("Linear", "float8_e4m3fn", 8.0, 1, 1),), (), 1, 1, 8.0, None).level
    assert {*quantized, float8, "f32", "f16", "bf16", "float64"} <= set(KNOWN)


def test_specs_share_the_limits_of_their_bits():
    for spec, bits in SAME_BITS.items():
        assert limits_for(spec, "ioi") == limits_for(bits, "ioi")
    for spec in RECIPES:
        digits = next(character for character in spec if character.isdigit())
        assert SAME_BITS[spec] == ("float8" if "float8" in spec else f"{digits}-bit")
    assert set(SAME_BITS) - set(RECIPES) == {"float32", "float64"}


@pytest.mark.parametrize("precision", DRIFT_LIMITS)
def test_every_default_is_a_limit_that_something_can_pass_and_something_can_miss(precision):
    for name, value in dict(limits_for(precision, "ioi")).items():
        check_overrides({name: value})
        assert math.isfinite(value)
        # A drift of 1 is as far as a write is long; rounding to 3 and 2 bits goes further.
        assert 0 < value < (6 if name.startswith(("drift", "excess")) else 1), name


@pytest.mark.parametrize("task", BUILT_IN)
@pytest.mark.parametrize("precision", DRIFT_LIMITS)
def test_every_default_lies_above_the_noise_of_the_committed_baselines(task, precision):
    floor = Baseline.load(baseline_file(BASELINES, task)).noise_floor
    limits = limits_for(precision, task)
    for criterion in CRITERIA:
        # Ten times, so that another machine's noise does not turn a green gate into a refused one.
        noise = 10 * floor.get(criterion.noise, 0.0)
        limit = limits[criterion.name]
        assert limit > noise if criterion.relation == "<=" else limit < 1 - noise


def test_overrides_go_from_the_general_to_the_special():
    overrides = {
        "profile_distance": 0.2,
        "drift_median": 0.01,
        "int8-sim": {"looser": True, "drift_median": 0.05, "ioi": {"drift_median": 0.02, "recovery": 0.6}},
    }
    changes = {"profile_distance": 0.2, "drift_median": 0.01}
    assert dict(limits_for("f16", "ioi", overrides)) == dict(limits_for("f16", "ioi")) | changes
    assert limits_for("int8-sim", "facts", overrides).drift_median == 0.05
    special = limits_for("int8-sim", "ioi", overrides)
    assert (special.profile_distance, special.drift_median, special.recovery) == (0.2, 0.02, 0.6)
    assert special.drift_largest == DRIFT_LIMITS["int8-sim"].largest


@given(
    st.dictionaries(st.sampled_from(NAMES), st.floats(0, 10)),
    st.dictionaries(st.sampled_from(NAMES), st.floats(0, 10)),
    st.dictionaries(st.sampled_from(NAMES), st.floats(0, 10)),
)
def test_the_most_special_override_wins_where_it_says_so(everywhere, for_precision, for_task):
    overrides = {**everywhere, "f16": {"looser": True, **for_precision, "ioi": {"looser": True, **for_task}}}
    assert dict(limits_for("f16", "ioi", overrides)) == {
        **dict(limits_for("f16", "ioi")),
        **everywhere,
        **for_precision,
        **for_task,
    }
    elsewhere = dict(limits_for("bf16", "ioi", overrides))
    assert elsewhere == {**dict(limits_for("bf16", "ioi")), **everywhere}


BAD = [
    ({"profile_distanc": 0.1}, r"limits\.profile_distanc: there is no such limit; known are profile_distance, "),
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
    ({"int4-rnt": {"recovery": 0.1}}, r"limits\.int4-rnt: there is no such precision; known are f32, .*int4-rtn, "),
    ({"ioi": {"recovery": 0.1}}, r"limits\.ioi: there is no such precision"),
    ({"int4-rnt": {}}, r"limits\.int4-rnt: there is no such precision"),
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


@pytest.mark.parametrize("name", KNOWN)
def test_every_known_precision_may_have_limits_of_its_own(name):
    assert limits_for(name, "ioi", {name: {"recovery": 0.25}}).recovery == 0.25


@pytest.mark.parametrize("precision", ["int4-rnt", "unheard-of", "", "recovery"])
def test_precision_without_limits_is_refused_by_name(precision):
    """It would otherwise be held to limits on drift that fit no precision."""
    with pytest.raises(ConfigurationError, match=f"no limits on drift for precision '{precision}'; known are f32, "):
        limits_for(precision, "ioi")
