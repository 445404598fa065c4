import math
from types import SimpleNamespace

import pytest
import torch
from detection.detectors import OURS, Outputs, criterion_score, our_scores, output_scores, outputs, word
from detection.texts import training_text

from circuitcheck.core.results import Estimate, Judgement


def criterion(low, high, relation, limit, verdict, name="a"):
    return Judgement(name, Estimate((low + high) / 2, low, high), relation, limit, "unit", verdict, "")


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (criterion(0.0, 0.1, "<=", 0.2, "PASS"), math.log(0.5)),
        (criterion(0.3, 0.4, "<=", 0.2, "FAIL"), math.log(2)),
        (criterion(0.95, 1.0, ">=", 0.9, "PASS"), math.log(0.5)),
        (criterion(0.6, 0.95, ">=", 0.9, "INCONCLUSIVE"), math.log(4)),
        (criterion(0.0, 0.0, "<=", 0.2, "PASS"), math.log(1e-6)),
        (criterion(math.nan, math.nan, "<=", 0.2, "FAIL"), math.inf),
        (criterion(-math.inf, 1.0, ">=", 0.5, "FAIL"), math.inf),
        (criterion(0.0, 0.2, "<=", 0.2, "PASS"), 0.0),
    ],
)
def test_a_criterions_score_is_the_logarithm_of_its_allowance_used(one, expected):
    assert criterion_score(one) == pytest.approx(expected)


def test_scores_and_verdicts_never_disagree():
    assert criterion_score(criterion(0.0, 0.1, "<=", 0.2, "FAIL")) > 0
    assert criterion_score(criterion(0.0, 0.4, "<=", 0.2, "PASS")) == 0


def test_the_verdicts_score_is_its_worst_criterions_over_all_tasks():
    good = SimpleNamespace(word="PASS", criteria=(criterion(0, 0.1, "<=", 0.2, "PASS", "a"),))
    bad = SimpleNamespace(word="FAIL", criteria=(criterion(0.6, 0.8, "<=", 0.2, "FAIL", "b"),))
    scores = our_scores({"one": good, "two": bad})
    assert scores == pytest.approx({OURS: math.log(4), "a": math.log(0.5), "b": math.log(4)})
    assert our_scores({"one": good, "none": SimpleNamespace(word="INCONCLUSIVE", criteria=())})[OURS] == math.inf


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["PASS", "PASS"], "PASS"), (["PASS", "INCONCLUSIVE"], "INCONCLUSIVE"), (["INCONCLUSIVE", "FAIL"], "FAIL")],
)
def test_word_over_tasks(words, expected):
    assert word([SimpleNamespace(word=one) for one in words]) == expected


def test_output_scores_by_hand():
    ids = torch.tensor([[0, 0]])
    before = Outputs(torch.tensor([[[0.75, 0.25]]]).log(), torch.tensor([[[[3.0, 4.0]]]]), ids)
    after = Outputs(torch.tensor([[[0.25, 0.75]]]).log(), torch.tensor([[[[4.0, 3.0]]]]), ids)
    scores = output_scores(before, after)
    assert scores == pytest.approx(
        {
            "kl": 0.75 * math.log(3) - 0.25 * math.log(3),
            "changed_argmax": 1.0,
            "perplexity_change": 2.0,  # from 1 / 0.75 to 1 / 0.25
            "sqnr": 10 * math.log10(2 / 25),
            "cosine": 1 - 24 / 25,
        },
        rel=1e-6,  # float32 logarithms
    )


def test_a_model_scores_nothing_against_itself(reference):
    itself = outputs(reference, next(training_text(20_000))[:8])
    scores = output_scores(itself, itself)
    assert (scores["kl"], scores["changed_argmax"], scores["perplexity_change"]) == (0, 0, 0)
    assert scores["sqnr"] == -math.inf
    # 1 minus a float64 cosine of equal vectors
    assert scores["cosine"] == pytest.approx(0, abs=1e-12)
