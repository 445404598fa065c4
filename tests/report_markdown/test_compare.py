"""What changed since the last release, worked out by hand."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path

import pytest
from attacks.mutations import mutated_json
from made_up_reports import made_up_report, unmeasured_run

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.modelcard.block import render_block
from circuitcheck.report.compare import compare, comparison_rows, load_report
from circuitcheck.report.text import render_comparison


def pair(**changes) -> tuple[dict, dict]:
    old = made_up_report(2, 2, **changes)
    return old, copy.deepcopy(old)


def estimate(value, low, high) -> dict:
    return {"value": value, "interval": [low, high]}


def only(comparison: dict) -> dict:
    (run,) = comparison["runs"]
    return run


def test_the_same_report_has_no_changes():
    old, new = pair(candidates=("a", "b"), tasks=("t", "u"))
    comparison = compare(old, new)
    assert [run["verdict"] for run in comparison["runs"]] == [["PASS", "PASS"]] * 4
    assert all(run["units"] == [] and not any(row["moved"] for row in run["criteria"]) for run in comparison["runs"])
    assert comparison["removed"] == []
    assert comparison["same_environment"]
    assert render_comparison(comparison) == (
        "Since the last release\nnothing moved beyond its interval in 4 of 4 candidates and tasks"
    )
    json.dumps(comparison, allow_nan=False)


def test_a_flip_is_said_first_with_its_criterion():
    old, new = pair(candidates=("a", "b"))
    new["runs"][1]["verdict"] = "FAIL"
    criterion = new["runs"][1]["criteria"][5]
    criterion |= {"value": estimate(0.9, 0.8, 1.0), "verdict": "FAIL"}
    lines = render_comparison(compare(old, new)).splitlines()
    assert lines[1] == "b on ioi: PASS -> FAIL; profile_distance 0.05 -> 0.9 (PASS -> FAIL)"


@pytest.mark.parametrize(
    ("interval", "value", "moved"),
    [
        ([0.04, 0.06], 0.07, True),  # 0.07 is outside [0.045, 0.055], and 0.05 outside [0.065, 0.075]
        ([0.04, 0.06], 0.052, False),  # inside the old interval
        (None, 0.056, False),  # outside the old one, but the new interval holds the old value
    ],
)
def test_a_value_moves_when_each_lies_outside_the_others_interval(interval, value: float, moved: bool):
    old, new = pair()
    criterion = new["runs"][0]["criteria"][5]
    old["runs"][0]["criteria"][5]["value"]["interval"] = [0.045, 0.055]
    criterion["value"] = estimate(value, *([value - 0.005, value + 0.005] if interval else [0.04, 0.07]))
    assert only(compare(old, new))["criteria"][5]["moved"] is moved


def test_a_value_that_became_undefined_has_moved():
    old, new = pair()
    new["runs"][0]["criteria"][0]["value"] = estimate(None, None, None)
    row = only(compare(old, new))["criteria"][0]
    assert row["moved"] is True
    assert [value["value"] for value in row["value"]] == [0.98, None]


def test_heads_are_newly_broken_mended_or_moved_largest_first():
    old, new = pair()
    was, now = old["runs"][0], new["runs"][0]
    for place, (before, after, was_broken, is_broken) in enumerate(
        [(1.0, 4.0, False, True), (1.0, 1.1, True, False), (1.0, 2.0, False, False), (1.0, 1.01, False, False)]
    ):
        was["units"][place]["importance_cand"] = estimate(before, 0.9, 1.2)
        now["units"][place]["importance_cand"] = estimate(after, after - 0.2, after + 0.2)
        for run, state in ((was, was_broken), (now, is_broken)):
            run["broken"] += [run["units"][place]["unit"]] if state else []
    found = only(compare(old, new))["units"]
    assert [(unit["unit"], unit["state"], *(value["value"] for value in unit["importance"])) for unit in found] == [
        ("0.0", "broken", 1.0, 4.0),
        ("1.0", "moved", 1.0, 2.0),
        ("0.1", "mended", 1.0, 1.1),
    ]
    text = render_comparison(compare(old, new))
    assert "NEWLY BROKEN HEADS 0.0 (1 -> 4); mended heads 0.1 (1 -> 1.1); importance moved in 1.0 (1 -> 2)" in text


def test_kinds_of_units_are_compared_with_their_own_kind():
    old, new = pair(candidates=("a", "b"))
    for document in (old, new):
        document["runs"][1] |= {"candidate": "a", "unit": "block"}
    new["runs"][1] |= {"verdict": "FAIL", "broken": ["0.1"]}
    comparison = compare(old, new)
    assert [(run["unit"], run["verdict"]) for run in comparison["runs"]] == [
        ("head", ["PASS", "PASS"]),
        ("block", ["PASS", "FAIL"]),
    ]
    text = render_comparison(comparison)
    assert "a on ioi (blocks): PASS -> FAIL; NEWLY BROKEN BLOCKS 0.1" in text


def test_new_and_removed_candidates():
    old, new = pair(candidates=("a", "b"))
    new["runs"][1]["candidate"] = "c"
    comparison = compare(old, new)
    assert [run["verdict"] for run in comparison["runs"]] == [["PASS", "PASS"], [None, "PASS"]]
    assert comparison["removed"] == [{"candidate": "b", "task": "ioi", "unit": "head", "verdict": "PASS"}]
    text = render_comparison(comparison)
    assert "c on ioi: new, PASS" in text
    assert "b on ioi: not in this run (was PASS)" in text


def test_two_releases_of_one_candidate_are_compared_whatever_they_are_called():
    old, new = pair(candidates=("release-1",))
    new["runs"][0] |= {"candidate": "release-2", "verdict": "FAIL"}
    run = only(compare(old, new))
    assert (run["candidate"], run["old_candidate"], run["verdict"]) == ("release-2", "release-1", ["PASS", "FAIL"])
    assert "release-2 on ioi (was release-1): PASS -> FAIL" in render_comparison(compare(old, new))


def test_other_prompts_or_another_specification_are_said():
    old, new = pair()
    new["runs"][0]["fingerprints"] |= {"prompts": "other", "spec": "other"}
    new["environment"]["python"] = "3.99"
    comparison = compare(old, new)
    assert only(comparison)["other"] == ["prompts", "spec"]
    assert "measured with other prompts and spec" in render_comparison(comparison)
    assert "other versions or on another machine" in render_comparison(comparison)


def test_what_was_not_measured_can_be_compared():
    old, new = pair()
    new["runs"] = [unmeasured_run("int8", "ioi", "no weights")]
    run = only(compare(old, new))
    assert run["verdict"] == ["PASS", "FAIL"]
    assert all(row["verdict"] == ["PASS", None] and row["moved"] for row in run["criteria"])
    assert only(compare(new, old))["verdict"] == ["FAIL", "PASS"]


def test_markdown_has_one_item_a_change_and_escapes_names():
    old, new = pair(candidates=("a|b",))
    new["runs"][0]["verdict"] = "FAIL"
    assert comparison_rows(compare(old, new)) == ["- <code>a&#124;b</code> on <code>ioi</code>: PASS -&#62; FAIL"]
    assert comparison_rows(None) == []
    assert render_comparison(None) == ""


# --- reading a report ---


def test_a_report_is_read_from_its_file_or_its_directory(tmp_path: Path):
    document = made_up_report()
    file = tmp_path / "report.json"
    file.write_text(json.dumps(document))
    assert load_report(file) == load_report(tmp_path) == document


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no report"),
        ("", "is not JSON"),
        ('{"schema": 3, "runs": [', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "not a report of circuitcheck"),
        ("{}", "not a report of circuitcheck"),
        ('{"schema": 2, "runs": []}', "has schema 2, and this circuitcheck reads 3"),
        ('{"schema": 99, "runs": []}', "has schema 99"),
        ('{"schema": 3, "runs": []}', "damaged: it lacks complete, environment, expected_runs"),
        ('{"schema":3,"runs":[3],"environment":{},"complete":true,"expected_runs":1}', "names of its runs"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_what_is_no_report_is_refused_by_name(tmp_path: Path, content, message: str):
    file = tmp_path / "old.json"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_report(file)
    assert "old.json" in str(caught.value)


@pytest.mark.parametrize("seed", range(8))
def test_a_report_that_says_anything_is_refused_or_compared(tmp_path: Path, seed: int):
    """As strangers may write it: keys that are missing, of other types, out of range, without end."""
    document = made_up_report(2, 2, candidates=("a",), tasks=("t",))
    chance, file = random.Random(seed), tmp_path / "report.json"
    refused = 0
    for _ in range(60):
        file.write_bytes(json.dumps(mutated_json(chance, document)).encode(errors="surrogatepass"))
        try:
            found = load_report(file)
        except ConfigurationError as error:
            refused += len(str(error)) < 2000
            continue
        render_comparison(compare(found, document))
        render_block(found, "base")
        refused += 1
    assert refused == 60
    twice = json.dumps(document).replace('"complete": true', '"complete": false, "complete": true')
    file.write_text(twice)
    with pytest.raises(ConfigurationError, match="the key 'complete' stands twice"):
        load_report(file)
