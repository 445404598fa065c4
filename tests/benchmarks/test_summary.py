import math

import pytest
from detection.evaluate import Case, Row
from detection.summary import areas, bits, by_family, false_alarms, matched, part_of, red_shares, summarize


def row(truth, ours, kl, precision="4-bit", word=None, family="some", half="choose", model="m"):
    word = word or ("FAIL" if ours > 0 else "PASS")
    scores = {"circuitcheck": ours, "profile_distance": ours}
    scores |= dict.fromkeys(["kl", "changed_argmax", "perplexity_change", "sqnr", "cosine"], kl)
    scores |= dict.fromkeys(["logit_difference", "accuracy"], 0.0)
    return Row(model, "t", family, 0, precision, half, truth, word, [] if word == "PASS" else ["a", "b"], scores)


ROWS = [
    row("benign", -1.0, 1e-3),
    row("benign", 0.5, 2e-3, word="INCONCLUSIVE"),
    row("benign", -0.4, 1e-6, "8-bit"),
    row("material", 1.0, 1.1e-3),
    row("subtle", -0.6, 1e-1, family="other"),
    row("subtle", 2.0, 1.1e-6, "8-bit"),
    row("minor", -2.0, 1e-3),
    row("benign", 3.0, 1e-3, half="both"),
]


def of(tables, truth, number):
    return next(table for table in tables if (table["truth"], table["bits"]) == (truth, number))


def test_red_shares_by_hand():
    tables = red_shares(part_of(ROWS, "choose"))
    four = of(tables, "benign", "4")
    assert (four["candidates"], four["red"], four["inconclusive"], four["reached"]) == (2, 1, 1, False)
    # Wilson's interval of one of two
    assert (four["low"], four["high"]) == pytest.approx((0.0945, 0.9055), abs=1e-4)
    assert of(tables, "material", "all")["reached"]
    assert of(tables, "subtle", "4")["share"] == 0
    assert "reached" not in of(tables, "minor", "all")


def test_pairs_are_of_one_model_task_and_bits():
    pairs = matched(part_of(ROWS, "choose"))
    assert [(one.scores["kl"], other.truth) for one, other in pairs] == [(1e-3, "material"), (1e-6, "subtle")]
    assert areas(part_of(ROWS, "choose"))["circuitcheck"].value == 1
    assert matched([row("benign", 0, 1e-3), row("subtle", 1, 1e-3, model="n")]) == []
    assert areas([row("benign", 0, 1e-3)]) == {}


def test_causes_by_hand():
    assert false_alarms(part_of(ROWS, "choose")) == {("4", "INCONCLUSIVE", "a, b"): 1}
    tables = by_family(part_of(ROWS, "choose"))
    assert {(table["truth"], table["family"]): table["passed"] for table in tables} == {
        ("benign", "some"): 2,
        ("material", "some"): 0,
        ("minor", "some"): 1,
        ("subtle", "other"): 1,
        ("subtle", "some"): 0,
    }


def test_halves_are_told_apart():
    summary = summarize(ROWS)
    assert of(summary["report"]["red"], "benign", "4")["red"] == 1
    assert summary.keys() == {"choose", "report"}
    assert summary["report"]["by_what_is_new"] == {"both": {"benign 4": "1/1", "benign all": "1/1"}}
    assert summary["choose"]["by_model"]["m"]["subtle all"] == "1/2"
    assert summarize(ROWS[:3]).keys() == {"choose"}


def test_a_refused_candidate_is_caught_by_every_criterion():
    refused = row("material", math.inf, 1e-3, word="REFUSED")
    del refused.scores["profile_distance"]
    assert areas([*ROWS[:1], refused])["profile_distance"].value == 1


@pytest.mark.parametrize(
    ("precision", "expected"), [("f32", "32"), ("bf16", "16"), ("int8-sim", "8"), ("4-bit", "4"), ("bnb-nf4", "4")]
)
def test_bits(precision, expected):
    assert bits(precision) == expected


@pytest.mark.parametrize(
    ("model", "family", "expected"),
    [
        ("embedded", "rounded in groups", "choose"),
        ("embedded", "GPTQ", "family"),
        ("neox-1", "rounded in groups", "model"),
        ("neox-1", "GPTQ", "both"),
    ],
)
def test_the_half_of_a_case(model, family, expected):
    assert Case(model, "ioi", family, 0, "4-bit").half == expected
