import math

import pytest
from detection.evaluate import Row
from detection.summary import bits, summarize


def row(name, truth, ours, kl, precision="int4-rtn", word=None, family="family"):
    word = word or ("FAIL" if ours > 0 else "PASS")
    scores = {"circuitcheck": ours, "kl": kl, "profile_distance": ours}
    scores |= dict.fromkeys(["changed_argmax", "perplexity_change", "sqnr", "cosine"], kl)
    scores |= dict.fromkeys(["logit_difference", "accuracy"], 0.0)
    return Row(name, "kind", family, truth, [], precision, 0.0, None, word, {}, [], [], scores)


ROWS = [
    row("b1", "benign", -1.0, 1e-3),
    row("b2", "benign", -0.5, 2e-3),
    row("b3", "benign", -0.4, 1e-6, "int8-rtn"),
    row("f1", "fault", 1.0, 1.1e-3),
    row("f2", "fault", -0.6, 1e-1),
    row("f3", "fault", 2.0, 2e-6, "int8-rtn"),
    row("u1", "unused-head", -2.0, 1e-3, family="other"),
]


def test_figures_by_hand():
    summary = summarize(ROWS)
    assert summary.areas["circuitcheck"].value == pytest.approx(7 / 9)  # f2 is above b1 alone
    assert summary.areas["kl"].value == pytest.approx((2 + 3 + 1) / 9)
    assert summary.pairs == 1
    assert summary.areas_matched["circuitcheck"].value == 1
    assert summary.thresholds["kl"] == {4: 2e-3, 8: 1e-6}
    assert summary.thresholds["circuitcheck"] == {4: 0.0, 8: 0.0}
    assert summary.missed["fault: family"] | {} == {
        "candidates": 3,
        "circuitcheck": 1,
        "kl": 1,
        "profile_distance": 1,
        **dict.fromkeys(["changed_argmax", "perplexity_change", "sqnr", "cosine"], 1),
        **dict.fromkeys(["logit_difference", "accuracy"], 3),
    }
    assert summary.missed["unused-head: other"]["circuitcheck"] == 1


def test_a_refused_candidate_is_caught_by_every_criterion():
    refused = row("r", "fault", math.inf, 1.0, word="REFUSED")
    del refused.scores["profile_distance"]
    summary = summarize([*ROWS[:3], refused])
    assert summary.areas["profile_distance"].value == 1


@pytest.mark.parametrize(
    ("precision", "expected"), [("f32", 32), ("f16", 16), ("bf16", 16), ("int8-sim", 8), ("int4-rtn", 4), ("3-bit", 3)]
)
def test_bits(precision, expected):
    assert bits(precision) == expected
