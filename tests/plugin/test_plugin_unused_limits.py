"""Limits that nothing was held against are named at the end of a complete run."""

from __future__ import annotations

from typing import Any

import pytest

from circuitcheck.plugin.closing import unused_limits

NOTE = "note: limits that nothing in this run was held against: "
ENTRY = {"precision": "int4-rtn", "task": "ioi"}


@pytest.mark.parametrize(
    ("limits", "metric", "unused"),
    [
        ({}, "logit_difference", []),
        ({"metric_change": 0.1, "int4-rtn": {"ioi": {"recovery": 0.1}}}, "logit_difference", []),
        ({"4-bit": {"recovery": 0.1}}, "logit_difference", []),
        ({"8-bit": {"recovery": 0.1}}, "logit_difference", ["8-bit: no candidate has that precision"]),
        ({"4-bit": {"oii": {"recovery": 0.1}}}, "logit_difference", ["4-bit.oii: no task is called so"]),
        ({"metric_change_nats": 0.1}, "log_probability", []),
        (
            {"metric_change_nats": 0.1, "4-bit": {"ioi": {"unrepaired_nats": 0.1, "unrepaired": 0.2}}},
            "logit_difference",
            [
                f"{name}: logit_difference is judged in another unit"
                for name in ("metric_change_nats", "unrepaired_nats")
            ],
        ),
        ({"metric_change": 0.1}, "log_probability", ["metric_change: log_probability is judged in another unit"]),
    ],
)
def test_unused_limits(limits: dict[str, Any], metric: str, unused: list[str]) -> None:
    assert unused_limits(limits, metric, [ENTRY], expected=1) == [NOTE + item for item in unused]
    assert unused_limits(limits, metric, [ENTRY], expected=2) == []
    assert unused_limits(limits, metric, [ENTRY | {"precision": None}], expected=1) == []
