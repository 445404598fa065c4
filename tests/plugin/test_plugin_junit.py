"""`--junitxml`: each test carries what it checked, with and without workers."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from gate_runner import Gate

KEYS = {"verdict", "value", "relation", "limit", "unit", "low", "high"}


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["serial", "xdist"])
def test_criteria_are_properties_of_their_tests(gate: Gate, workers: tuple[str, ...]) -> None:
    gate.run("--junitxml=junit.xml", "--circuit-report-dir=out", *workers)
    criteria = {row["name"]: row for row in gate.report()["runs"][0]["criteria"]}
    cases = {case.get("name"): case for case in ElementTree.parse(gate.path / "junit.xml").iter("testcase")}
    drift = {row.get("name"): row.get("value") for row in cases["test_drift[f16-ioi]"].iter("property")}
    names = ("excess", "excess_layer", "excess_unit")
    assert set(drift) == {f"circuitcheck.{name}.{key}" for name in names for key in KEYS}
    for name in names:
        expected = criteria[name]
        assert drift[f"circuitcheck.{name}.verdict"] == "PASS"
        assert drift[f"circuitcheck.{name}.unit"] == "times rounding's drift"
        assert [float(drift[f"circuitcheck.{name}.{key}"]) for key in ("value", "limit", "low", "high")] == [
            expected["value"]["value"],
            expected["limit"],
            *expected["value"]["interval"],
        ]
    others = {row.get("name").split(".")[1] for row in cases["test_behaviour[f16-ioi]"].iter("property")}
    assert others == {"behaviour_kept", "metric_change"}


def test_a_failing_test_carries_them_too(gate: Gate) -> None:
    gate.configure(limits={"f16": {"drift_median": 1e-5}})
    gate.run("--junitxml=junit.xml")
    cases = {case.get("name"): case for case in ElementTree.parse(gate.path / "junit.xml").iter("testcase")}
    drift = {row.get("name"): row.get("value") for row in cases["test_drift[f16-ioi]"].iter("property")}
    assert drift["circuitcheck.drift_median.verdict"] == "FAIL"
    assert float(drift["circuitcheck.drift_median.limit"]) == 1e-5
