"""Shares of a profile, worked out by hand."""

from __future__ import annotations

from profile_gate import shares

LINES = [
    "main (pytest/main.py:3);measure (circuitcheck/gate/measure.py:10);patched (circuitcheck/hooked.py:7) 6",
    "main (pytest/main.py:3);measure (circuitcheck/gate/measure.py:12);measure (circuitcheck/gate/measure.py:30) 2",
    "main (pytest/main.py:3);measure (circuitcheck/gate/measure.py:9);_find (<frozen importlib._bootstrap>:1);"
    "<module> (circuitcheck/gate/repair.py:1) 1",
    "main (pytest/main.py:3) 1",
]


def test_a_function_counts_once_a_stack_and_what_is_imported_is_no_part_of_the_pipeline() -> None:
    total, found = shares(LINES)
    assert total == 10
    assert found == {
        "measure (circuitcheck/gate/measure.py)": 0.9,
        "patched (circuitcheck/hooked.py)": 0.6,
        "(imports)": 0.1,
    }
