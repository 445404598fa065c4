"""Annotations: failures only, ten at most, and no name can end one early or start another."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_reports import made_up_report, unmeasured_run

from circuitcheck.core.people import visible
from circuitcheck.report.annotations import annotations


def failing(count: int, passing: int = 2) -> dict:
    document = made_up_report(2, 2, tuple(f"p{number}" for number in range(passing)))
    document["runs"] += [unmeasured_run(f"c{number}", "ioi", "broke") for number in range(count)]
    return document


def parsed(line: str) -> tuple[str, str]:
    """As the runner reads it: commands end at the first `::` after their properties."""
    found = re.fullmatch(r"::error title=([^:,\r\n]*)::([^\r\n]*)", line)
    assert found, line
    title = found[1].replace("%3A", ":").replace("%2C", ",")
    return tuple(part.replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%") for part in (title, found[2]))  # type: ignore[return-value]


def test_what_passes_has_none():
    assert annotations(failing(0)) == []


@pytest.mark.parametrize(("count", "lines"), [(1, 1), (9, 9), (10, 10), (11, 10), (300, 10)])
def test_at_most_ten_and_the_last_counts_the_rest(count: int, lines: int):
    found = annotations(failing(count))
    assert len(found) == lines
    if count > 10:
        assert parsed(found[-1])[1].startswith(f"{count - 9} more did not pass")
    else:
        assert [parsed(line)[0] for line in found] == [f"FAIL: c{number} on ioi" for number in range(count)]


def test_message_names_the_criterion_and_the_broken_heads():
    document = made_up_report(2, 2, verdicts={("int8", "ioi"): "FAIL"})
    ((title, message),) = map(parsed, annotations(document))
    assert title == "FAIL: int8 on ioi"
    assert message.startswith("profile_distance is 0.9, but must be <= 0.25")
    broken = document["runs"][0]["broken"]
    assert message.endswith(f"Broken heads: {', '.join(broken)}.")


def test_undecided_is_annotated_only_where_it_fails_the_gate():
    document = made_up_report(2, 2, verdicts={("int8", "ioi"): "INCONCLUSIVE"})
    assert annotations(document) == []
    ((title, message),) = map(parsed, annotations(document, inconclusive_fails=True))
    assert title == "INCONCLUSIVE: int8 on ioi"
    assert "profile_distance" in message


@given(st.text(min_size=1), st.text(min_size=1))
def test_no_name_and_no_message_leaves_its_place(name: str, message: str):
    document = made_up_report(1, 1, ())
    document["runs"] = [unmeasured_run(name, "a,b::error", message)]
    ((title, text),) = map(parsed, annotations(document))
    assert title == visible(f"FAIL: {name} on a,b::error")
    assert text == visible(message[:3000])


def test_a_long_message_is_cut():
    document = failing(0)
    document["runs"] = [unmeasured_run("c", "t", "é" * 9_000)]
    assert len(parsed(annotations(document)[0])[1]) == 3_000
