import numpy as np
import pytest
from detection.truth import (
    Answers,
    Effect,
    circuit_heads,
    effect,
    known_part,
    lost_share,
    reference_answers,
    severity,
    shares_of,
    truth_of,
)

SHARES = {"a": {(0, 0): 1.0, (0, 1): 0.2, (1, 0): 0.01}, "b": {(0, 0): 0.1, (0, 1): 1.0, (1, 0): 0.04}}
QUIET = Effect(lost=0.0, moved=1e-5, profile=0.0)
SMALL = Effect(lost=0.0, moved=0.1, profile=0.05)


def test_heads_by_hand():
    assert circuit_heads(SHARES) == [(0, 0), (0, 1)]
    assert severity(SHARES["a"], {(0, 0): 0.5, (0, 1): 1.0}) == 0.5
    assert severity(SHARES["a"], {}) == 0
    assert known_part(frozenset({(0, 1)}), {(0, 0): 1.0, (0, 1): 0.3}) == 0.3
    assert known_part(None, {(0, 0): 1.0}) == 0


@pytest.mark.parametrize(
    ("expected", "changes"),
    [
        ("minor", {}),
        ("no-op", {"alone": QUIET}),
        ("no-op", {"alone": QUIET, "taken": 1.0, "in_circuit": 1.0}),
        ("material", {"lost": 0.06}),
        ("minor", {"lost": 0.06, "lost_plainly": 0.02}),
        ("material", {"alone": Effect(0.05, 0.1, 0.0)}),
        ("material", {"in_circuit": 0.25}),
        ("minor", {"in_circuit": 0.2}),
        ("subtle", {"taken": 0.25}),
        ("subtle", {"alone": Effect(0.0, 0.1, 0.1)}),
        ("benign", {"is_benign": True, "alone": None}),
        ("lossy", {"is_benign": True, "alone": None, "lost": 0.05, "lost_plainly": 0.05}),
    ],
)
def test_labels_by_hand(expected, changes):
    given = {"is_benign": False, "lost": 0.0, "lost_plainly": 0.0, "alone": SMALL, "taken": 0.0, "in_circuit": 0.0}
    assert truth_of(**given | changes) == expected


def made_up(metric, logits, importance):
    return Answers(np.array(metric), [np.array(logits, np.float32)], np.array(importance))


def test_effects_by_hand():
    before = made_up([1.0, 2.0, 0.4, 3.0], [[[8.0, 1.0]]], [2.0, -4.0])
    after = made_up([0.1, -1.0, -1.0, np.nan], [[[7.0, 1.5]]], [2.0, -3.0])
    # the third is not solved by the reference; of the other three one is kept
    assert lost_share(before, after) == pytest.approx(2 / 3)
    assert effect(before, after) == Effect(pytest.approx(2 / 3), 1 / 8, 1 / 4)
    broken = made_up([np.nan] * 4, [[[np.nan, 1.0]]], [np.nan, 0.0])
    assert effect(before, broken) == Effect(1.0, np.inf, np.inf)


def test_importances_are_those_of_another_ablation_than_the_gates(models):
    shares = shares_of(models["embedded"])
    assert shares.keys() == models["embedded"].tasks.keys()
    assert all(max(of.values()) == 1 for of in shares.values())
    assert len(reference_answers(models["embedded"], "ioi").importance) == 32
