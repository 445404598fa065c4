"""What a tired person sees: which heads broke, in lines that fit the terminal."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import synthetic_results as synthetic
from hypothesis import example, given, settings
from hypothesis import strategies as st

from circuitcheck.core.people import INVISIBLE
from circuitcheck.core.results import Association, Estimate, Integrated, Verdict
from circuitcheck.diagnostics.keep_list import KeepList
from circuitcheck.report.compare import compare
from circuitcheck.report.document import failed_entry, failed_keep_entry, keep_entry, run_entry
from circuitcheck.report.text import BROKEN_UNITS, FRAGILE_UNITS, WIDTH, render, render_comparison, render_entries

COLUMNS = (
    "candidate",
    "task",
    "behaviour",
    "metric",
    "drift",
    "ranking",
    "profile",
    "recovery",
    "diagnosis",
    "verdict",
)
HEAD_COLUMNS = [
    "task",
    "head",
    "importance ref",
    "importance cand",
    "rank",
    "drift",
    "drift of z",
    "fragility",
    "repair",
]
EXACT = synthetic.exactly
KEEP: Any = SimpleNamespace(
    modules=("a.b",),
    verdict="PASS",
    measured=7,
    torchao='modules_to_not_convert=["head", "a.b"]',
    compressed_tensors='ignore=["head", "a.b"]',
    bitsandbytes='llm_int8_skip_modules=["head", "a.b"]',
)
"""As much of a keep list as a report asks for."""


def judged(heads=None, measurement=None, **changes) -> Verdict:
    """The verdict on a quiet circuit with some changes."""
    circuit = synthetic.make_circuit(**changes, **({"units": tuple(heads)} if heads else {}))
    return synthetic.make_verdict(synthetic.make_measurement(circuit, **(measurement or {})))


def head_rows(text: str) -> list[list[str]]:
    """Cells of the heads' tables; two spaces part cells."""
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    return [row for row in rows if len(row) == 9 and re.fullmatch(r"\d+\.\d+!?", row[1])]


def broken_heads():
    """Head 1.3 lost most of what it did, and is not fragile; the others are, and did not change."""
    fragile = [synthetic.make_head(0, number, 1.0, 1.0, fragility=5.0 + number) for number in range(12)]
    return [*fragile, synthetic.make_head(1, 3, 4.0, 0.5, rank_ref=1, rank_cand=13)]


def moved(heads) -> Verdict:
    return judged(heads, profile_distance=EXACT(0.875))


def moved_of(kind, units, task) -> Verdict:
    return judged(units, {"unit": kind, "task": task}, profile_distance=EXACT(0.875))


# --- the summary ---


def test_summary_has_a_row_for_every_case_with_all_columns():
    text = render([judged(), judged(measurement={"task": "other"})])
    lines = text.splitlines()
    assert all(column in lines[0] for column in COLUMNS)
    first = lines[3].split()
    assert first == [
        *("candidate", "synthetic", "0.010", "0.990", "(1.000)", "1.000", "0.010", "0.010", "-", "0.010", "0.020"),
        *("no", "damage", "0.001", "0.000", "PASS"),
    ]
    assert lines[4].split()[1] == "other"


def test_marks_show_which_criterion_fails_and_which_is_undecided():
    text = render(
        [judged(metric_change=EXACT(0.5), drift_median=Estimate(0.19, 0.1, 0.3), profile_distance=EXACT(float("nan")))]
    )
    row = text.splitlines()[3]
    assert "0.500!" in row
    assert "0.190 0.020?" in row
    assert "-!" in row  # undefined, and a failure
    assert row.endswith("FAIL")
    assert "candidate-synthetic: metric_change is 0.5 [0.5, 0.5], must be <= 0.2" in text
    assert "profile_distance could not be measured: it is not finite" in text


def test_task_that_is_not_solved_shows_why_and_no_table():
    unsolved = synthetic.make_measurement(inconclusive="the reference solves 3 of 64 prompts")
    text = render([synthetic.make_verdict(replace(unsolved, circuit=None))])
    assert text.splitlines()[3].split() == ["candidate", "synthetic", *"---------", "INCONCLUSIVE"]
    assert "candidate-synthetic: the reference solves 3 of 64 prompts" in text
    assert "Most fragile heads" not in text


def test_failed_entry_shows_its_reason_line_by_line():
    text = render_entries([failed_entry("model", "f16", "ioi", "stale:\n  weights: recorded a, now b\n  prompts: x")])
    assert text.splitlines()[3].split() == ["f16", "ioi", *"---------", "FAIL"]
    assert "f16-ioi: stale:\n  weights: recorded a, now b\n  prompts: x" in text


# --- the heads ---


def test_broken_head_is_marked_and_comes_first_however_small_its_fragility():
    rows = head_rows(render([moved(broken_heads())]))
    assert [row[1] for row in rows] == ["1.3!", *(f"0.{number}" for number in range(11, 4, -1))]
    assert rows[0] == [
        *(
            "synthetic",
            "1.3!",
            "4.000 [4.000, 4.000]",
            "0.500 [0.500, 0.500]",
            "1 -> 13",
            "0.010",
            "0.010",
            "0.000",
            "0.000",
        )
    ]


def test_heads_table_has_its_columns():
    lines = render([judged()]).splitlines()
    header = next(line for line in lines if "importance ref" in line)
    assert re.split(r"\s{2,}", header.strip()) == HEAD_COLUMNS


def test_broken_heads_are_named_in_one_line_above_all_tables():
    text = render([moved(broken_heads()), judged()])
    line = "candidate-synthetic: BROKEN HEADS 1.3 (4.000 -> 0.500)"
    assert line in text.splitlines()
    assert text.index(line) < text.index("Most fragile heads")
    assert "BROKEN" not in render([judged()])


def test_broken_heads_go_by_how_far_they_moved():
    heads = [
        synthetic.make_head(0, 0, 4.0, 2.0),
        synthetic.make_head(0, 1, 1.0, -3.0),
        synthetic.make_head(0, 2, 1.0, 4.0),
        synthetic.make_head(0, 3, 1.0, 1.5, fragility=9.0),  # 0.5 is less than 0.3 times 4
    ]
    text = render([moved(heads)])
    assert [row[1] for row in head_rows(text)] == ["0.1!", "0.2!", "0.0!", "0.3"]
    assert "BROKEN HEADS 0.1 (1.000 -> -3.000), 0.2 (1.000 -> 4.000), 0.0 (4.000 -> 2.000)" in text


def test_head_that_the_verdict_does_not_call_broken_is_not_marked():
    text = render([moved([synthetic.make_head(0, 0, 4.0, 4.0), synthetic.make_head(0, 1, 1.0, 2.0)])])
    assert "!" not in "".join(row[1] for row in head_rows(text))


@pytest.mark.parametrize(("broken", "shown"), [(1, FRAGILE_UNITS), (12, 12), (30, BROKEN_UNITS)])
def test_table_grows_with_the_broken_heads_up_to_a_page(broken, shown):
    heads = [synthetic.make_head(number, 0, 1.0, 1.0, fragility=1.0) for number in range(40)]
    heads[:broken] = [synthetic.make_head(number, 0, 4.0, 0.0) for number in range(broken)]
    text = render([moved(heads)])
    rows = head_rows(text)
    assert len(rows) == shown
    assert sum(row[1].endswith("!") for row in rows) == min(broken, shown)
    assert ("and 22 more" in text) == (broken == 30)


def test_drift_beyond_its_limit_is_marked_and_placed():
    heads = [
        synthetic.make_head(0, 0, drift=0.5),
        synthetic.make_head(2, 1, drift=0.9),
        synthetic.make_head(3, 1, drift=1.5),
    ]
    text = render([judged(heads, drift_largest=EXACT(1.5))])
    assert {row[1]: row[5] for row in head_rows(text)} == {"0.0": "0.500", "2.1": "0.900!", "3.1": "1.500!"}
    line = "no head's importance broke; drift beyond its limit in 2 head(s), first in layer 2, most in 3.1 (1.500)"
    assert f"candidate-synthetic: {line}" in text


def test_importance_or_drift_that_is_undefined_counts_as_broken():
    undefined = synthetic.make_head(0, 1, 1.0, 1.0, importance_change=EXACT(float("nan")), drift=float("inf"))
    rows = head_rows(render([moved([synthetic.make_head(0, 0, 4.0, 4.0), undefined])]))
    assert rows[0][1] == "0.1!"
    assert rows[0][5] == "-!"


def test_head_that_a_screened_sweep_left_out_is_neither_broken_nor_hidden():
    nothing = EXACT(float("nan"))
    unknown = {"importance_ref": nothing, "importance_cand": nothing, "importance_change": nothing}
    heads = [
        synthetic.make_head(0, 0, 4.0, 4.0),
        synthetic.make_head(0, 1, **unknown, rank_ref=None, rank_cand=None, fragility=1.0),
    ]
    rows = head_rows(render([judged(heads)]))
    assert rows[0] == ["synthetic", "0.1", "- [-, -]", "- [-, -]", "-", "0.010", "0.010", "1.000", "0.000"]


def test_candidates_have_tables_of_their_own_in_which_tasks_are_mixed_by_fragility():
    def case(candidate, task, fragility):
        heads = [synthetic.make_head(0, 0, fragility=fragility)]
        return judged(heads, {"candidate": candidate, "task": task})

    text = render([case("a", "one", 0.25), case("a", "two", 0.5), case("b", "one", 0.75)])
    assert [(row[0], row[7]) for row in head_rows(text)] == [("two", "0.500"), ("one", "0.250"), ("one", "0.750")]
    assert text.index("Most fragile heads of a\n") < text.index("Most fragile heads of b\n")


def test_candidate_that_equals_the_reference_has_no_table():
    heads = [synthetic.make_head(0, 0, drift=0.0), synthetic.make_head(0, 1, drift=1e-8)]
    text = render([judged(heads)])
    assert (
        "Most fragile heads of candidate: none, what they write has not moved beyond the reference's own noise" in text
    )
    assert head_rows(text) == []


def test_heads_that_broke_without_any_drift_are_shown():
    """A changed output projection in the last layer: every z is as it was."""
    heads = [synthetic.make_head(0, 0, 4.0, 0.0, drift=0.0), synthetic.make_head(0, 1, drift=0.0)]
    assert head_rows(render([moved(heads)]))[0][1] == "0.0!"


# --- importance against drift, the first order, and what only some runs look for ---


def lines_after(text: str, title: str) -> list[list[str]]:
    """Cells of the rows of the table under a title; two spaces part cells."""
    lines = text[text.index(title) :].split("\n\n")[0].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("---"))
    return [re.split(r"\s{2,}", line.strip()) for line in lines[start + 1 :] if "  " in line.strip()]


def test_associations_of_every_kind_are_in_one_row():
    verdict = judged(
        associations={
            "resample": Association(
                EXACT(-0.25), Estimate(0.5, 0.125, 0.75), p_within_layers=0.004, between_layers_share=0.5
            ),
            "zero": Association(
                EXACT(0.125), EXACT(float("nan")), p_within_layers=float("nan"), between_layers_share=0.5
            ),
        }
    )
    text = render([verdict])
    assert "importance by resample" in text
    assert "importance by mean" not in text
    (row,) = lines_after(text, "Important and fragile?")
    assert row == ["candidate", "synthetic", "-0.250; 0.500 [0.125, 0.750] p 0.004", "0.125; - [-, -] p -"]


def test_associations_that_say_nothing_are_left_out():
    nothing = Association(EXACT(float("nan")), EXACT(float("nan")), float("nan"), float("nan"))
    text = render([judged(associations={"resample": nothing})])
    assert "Important and fragile?" not in text
    assert "Important and fragile?" not in render_entries([failed_entry("m", "f16", "ioi", "why")])


def audit(**changes) -> Verdict:
    return judged(bound=replace(synthetic.make_circuit().bound, **changes))


def test_first_order_is_audited_and_called_violated_where_it_is():
    text = render([audit(degradation=2.0, estimate=1.0, bound=4.0, coverage=0.75, violated=True, relative_error=0.5)])
    (row,) = lines_after(text, "First-order damage")
    assert row == [
        *("candidate", "synthetic", "2.000", "1.000", "50%", "4.000", "5.000", "75% of prompts, VIOLATED"),
    ]
    assert "VIOLATED" not in render([judged()])


def test_second_opinion_is_shown_or_it_is_said_what_it_needs():
    assert "integrated gradients, needs the reference in the same run: --circuit-against-base" in render([judged()])
    text = render([audit(integrated=Integrated(1.5, 0.25))])
    assert "needs the reference" not in text
    (row,) = lines_after(text, "First-order damage")
    assert row[-2:] == ["1.500", "25%"]
    both = render([judged(), audit(integrated=Integrated(1.5, 0.25))])
    assert [row[-2:] for row in lines_after(both, "First-order damage")] == [["-", "-"], ["1.500", "25%"]]


def test_candidate_that_has_not_moved_has_no_audit():
    assert "First-order" not in render([audit(bound=0.0)])


def test_other_specifications_and_modules_to_keep_are_shown_where_they_were_looked_for():
    rows = [
        {"ablation": kind, "metric": "logit_difference", "ablate_at": "all", "verdict": word, "message": ""}
        for kind, word in (("resample", "PASS"), ("zero", "FAIL"))
    ]
    entry = run_entry(judged()) | {
        "multiverse": {"flips": 1, "of": 2, "specifications": rows},
        "keep": keep_entry(KEEP),
    }
    text = render_entries([entry])
    flips = "candidate-synthetic: the verdict flips under 1 of 2 specifications (zero/logit_difference/all: FAIL)"
    assert flips in text
    rows[1]["message"] = "it overflows"
    assert "zero/logit_difference/all: FAIL, not measured: it overflows" in render_entries([entry])
    assert "candidate: PASS with 1 module(s) in high precision, re-measured so:" in text
    assert render_entries([entry, entry | {"task": "other"}]).count("in high precision") == 1, "it is the candidate's"
    assert "candidate: no keep list: why" in render_entries([entry | {"keep": failed_keep_entry("why")}])
    assert '  torchao: modules_to_not_convert=["head", "a.b"]' in text
    assert '  compressed-tensors: ignore=["head", "a.b"]' in text
    assert '  bitsandbytes: llm_int8_skip_modules=["head", "a.b"]' in text


def test_a_keep_list_in_vain_says_so_in_one_line():
    keep = KeepList((), "FAIL", 2, "head", "not even with all 35 projections in high precision does it pass (FAIL)")
    text = render_entries([failed_entry("model", "candidate", "task", "why") | {"keep": keep_entry(keep)}])
    assert "candidate: no keep list: not even with all 35 projections in high precision does it pass (FAIL)\n" in text
    assert "re-measured so" not in text
    assert "torchao" not in text


# --- strangers' words ---


EVIL = "\x1b[2J\x1b]0;owned\x07a\rcircuit gate: PASS (9 PASS)\x9b31m\u202eb\ud800"


def test_no_name_message_or_note_reaches_the_terminal_raw():
    name = f"x\ncircuit gate: PASS (1 PASS)\n{EVIL}"
    heads = [replace(synthetic.make_head(0, 0, 4.0, 0.0), unit=name)]
    specification = {"ablation": "zero", "metric": "m", "ablate_at": "all", "verdict": "FAIL", "message": name}
    entry = run_entry(moved(heads)) | {"candidate": name, "task": name, "notes": [name], "message": name}
    entry["multiverse"] = {"flips": 1, "of": 1, "specifications": [specification]}
    entry["criteria"][0]["message"] = name
    new = copy.deepcopy(entry) | {"verdict": "PASS"}
    document = {"environment": {}, "complete": True}
    comparison = compare(document | {"runs": [entry]}, document | {"runs": [new]})
    text = render_entries([entry, failed_entry("m", "f16", name, name)]) + "\n" + render_comparison(comparison)
    assert INVISIBLE.search(text) is None
    assert not re.search("^circuit gate: [A-Z]", text, re.MULTILINE), "no line of a stranger's is the gate's"
    assert text.replace("\n", "").isprintable()


def test_repair_of_single_heads_that_was_not_run_shows_as_undefined():
    heads = [synthetic.make_head(0, 0, fragility=0.5, repair_gain=float("nan"))]
    assert head_rows(render([judged(heads)]))[0][-2:] == ["0.500", "-"]


def test_units_are_called_what_they_are():
    blocks = [
        replace(synthetic.make_head(3, 1, 4.0, 0.0), unit="mlp 3"),
        replace(synthetic.make_head(3, 0), unit="attention 3"),
    ]
    block = moved_of("block", blocks, task="unit-tests")
    text = render([block])
    assert "candidate-unit-tests-block: BROKEN BLOCKS mlp 3 (4.000 -> 0.000)" in text
    assert "Most fragile blocks of candidate, broken ones first" in text
    assert "A block marked ! broke" in text.replace("\n    ", " ")
    assert not re.search("head|unit(?!-)", text)
    mixed = render([block, judged()])
    assert "Most fragile heads of candidate\n" in mixed
    assert "A unit marked ! broke" in mixed.replace("\n    ", " ")


# --- notes, legend, width ---


def test_note_is_said_once_and_of_whom_unless_of_all():
    everywhere, here = "Said of all.", "Said of one."
    verdicts = [
        judged(measurement={"notes": (everywhere,), "task": "one"}),
        judged(measurement={"notes": (everywhere, here), "task": "two"}),
    ]
    text = render(verdicts)
    assert text.count(everywhere) == 1
    assert "note: Said of all.\n" in text
    assert "note: Said of one. (candidate-two)\n" in text


def test_every_mark_is_explained():
    text = render([judged()])
    legend = text[text.index("! beyond its limit") :].replace("\n    ", " ")
    for part in (
        "? its interval contains the limit",
        "- undefined",
        "A head marked !",
        "A drift marked !",
        "in logits",
    ):
        assert part in legend


BASIS = synthetic.make_basis(
    source="sketch", changed=("127.127",), largest_drift_z=1e12, renumbered={"1" * 40: "2" * 40}, unread=1e12
)
names = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "Zs"]), min_size=1, max_size=80)
numbers = st.floats(-1e12, 1e12) | st.floats(allow_nan=True, allow_infinity=True)


@settings(deadline=None, max_examples=100)
@example(candidate="0" * 16, task="0" * 14, message="0", values=[-1.8e-127] * 8)
@given(candidate=names, task=names, message=names, values=st.lists(numbers, min_size=8, max_size=8))
def test_no_line_is_wider_than_the_terminal(candidate, task, message, values):
    one, two, three, four, five, six, seven, eight = values
    rho = [value if value != value else max(-1.0, min(1.0, value)) for value in values]
    head = synthetic.make_head(
        127,
        127,
        one,
        two,
        rank_ref=16384,
        rank_cand=16384,
        drift=three,
        drift_z=six,
        fragility=four,
        repair_gain=five,
        importance_change=Estimate(six, seven, eight),
    )
    entry = run_entry(
        judged(
            [head, replace(head, layer=126)],
            {"candidate": candidate, "task": task, "notes": (message,)},
            metric_change=Estimate(one, two, three),
            drift_median=Estimate(four, five, six),
            drift_largest=EXACT(seven),
            basis=BASIS,
            profile_distance=Estimate(seven, eight, one),
            repair=replace(synthetic.make_circuit().repair, recovery=EXACT(two), diagnosis="distributed"),
            associations={kind: Association(EXACT(rho[0]), Estimate(*rho[1:4]), *rho[4:6]) for kind in "abc"},
            bound=replace(synthetic.make_circuit().bound, degradation=one, bound=two, looseness=three, violated=True),
        )
    )
    entries = [entry, failed_entry("model", candidate, task, (message + " ") * 20)]
    text = render_entries(entries)
    assert max(len(line) for line in text.splitlines()) <= WIDTH == 160


def test_long_names_are_broken_and_not_cut():
    name = "a-release-candidate-with-a-very-long-name-of-its-own"
    text = render([judged(measurement={"candidate": name})])
    column = "".join(line[:16].strip() for line in text.splitlines()[3:8])
    assert column.startswith(name)


def test_rendering_is_pure():
    entries = [run_entry(moved(broken_heads())), failed_entry("model", "f16", "ioi", "why")]
    before = copy.deepcopy(entries)
    assert render_entries(entries) == render_entries(entries)
    assert entries == before
    verdict = moved(broken_heads())
    assert render([verdict]) == render([verdict]) == render_entries([run_entry(verdict)])
