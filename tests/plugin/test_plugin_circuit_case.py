"""`circuitcheck_case.check`, which every test of the gate calls: nothing that is asked for can be passed over."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.plugin.circuit_case import CircuitCase
from circuitcheck.verdict.criteria import BY_NAME


def criterion(name: str, verdict: str = "PASS") -> dict[str, Any]:
    return {
        "name": name,
        "verdict": verdict,
        "value": {"value": 0.5, "interval": [0.25, 0.75]},
        "relation": "<=",
        "limit": 0.125,
        "unit": "relative norm",
        "message": "" if verdict == "PASS" else f"{name} is 0.5",
    }


def case_of(*without: str, allow_inconclusive: bool = False, repair: Any = True, **verdicts: str) -> CircuitCase:
    """A case whose criteria pass but for these."""
    criteria = [criterion(name, verdicts.get(name, "PASS")) for name in BY_NAME if name not in without]
    entry = {"verdict": "PASS", "message": "", "criteria": criteria, "repair": repair}
    settings = SimpleNamespace(writes_baselines=False, allow_inconclusive=allow_inconclusive)
    return CircuitCase(SimpleNamespace(settings=settings, entry=lambda _: entry), "f16-ioi")  # type: ignore[arg-type]


def test_a_name_that_no_criterion_has_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match="there is no criterion drift, retrieval; known are profile_distance, "
    ):
        case_of().check("drift", "recovery", "retrieval")


def test_every_criterion_where_none_is_named() -> None:
    case = case_of()
    case.check()
    assert {name.split(".")[1] for name, _ in case.take_properties()} == set(BY_NAME)
    with pytest.raises(pytest.fail.Exception, match=r"f16-ioi: drift_largest is 0\.5"):
        case_of(drift_largest="FAIL").check()


def test_only_what_is_named_decides() -> None:
    case = case_of(drift_largest="FAIL")
    case.check("drift_median", "behaviour_kept")
    found = dict(case.take_properties())
    assert {name.split(".")[1] for name in found} == {"drift_median", "behaviour_kept"}
    shown = [found[f"circuitcheck.drift_median.{key}"] for key in ("low", "high", "limit")]
    assert shown == [0.25, 0.75, 0.125]
    assert case.take_properties() == []


@pytest.mark.parametrize("name", BY_NAME)
def test_what_was_not_measured_fails(name: str) -> None:
    """But for recovery, where there is too little damage to recover from; without any repair it is missing too."""
    missing = pytest.raises(pytest.fail.Exception, match=f"f16-ioi: {name} was not measured")
    if name == "recovery":
        case_of(name).check(name)
        with missing:
            case_of(name, repair=None).check(name)
    else:
        with missing:
            case_of(name).check(name)


def test_inconclusive_fails_or_is_skipped_but_never_passes() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"f16-ioi is INCONCLUSIVE: recovery is 0\.5"):
        case_of(recovery="INCONCLUSIVE").check()
    with pytest.raises(pytest.skip.Exception, match=r"f16-ioi is INCONCLUSIVE: recovery is 0\.5"):
        case_of(recovery="INCONCLUSIVE", allow_inconclusive=True).check()
    with pytest.raises(pytest.fail.Exception, match=r"f16-ioi: unrepaired is 0\.5"):
        case_of(recovery="INCONCLUSIVE", unrepaired="FAIL", allow_inconclusive=True).check()
