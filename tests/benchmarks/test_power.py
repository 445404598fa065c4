"""A small version of `benchmarks/power.py`: two tasks, a dozen candidates of each truth."""

import json
from functools import partial

import numpy as np
import pytest
from detection import surgery
from detection.benign import benign
from detection.evaluate import Judge
from detection.faults import Planter, averaged, rotary, scaled, swapped, unused
from detection.healing import Healing
from detection.roc import roc_area

BENIGN = [
    "reference, batches of 1",
    "reference, order 0",
    "reference, reloaded",
    "f16, as it is",
    "bf16, as it is",
    "int8-sim, as it is",
    "int8-rtn per channel, to nearest",
    "int4-rtn g8, to nearest",
    "int4-rtn g32, to nearest",
    "int4-rtn g128, to nearest",
    "int4-rtn g128, stochastic 1",
]


@pytest.fixture(scope="module")
def rows(reference, baselines, cache):
    planter = Planter(reference, baselines, cache)
    heads = ((2, 7),)
    healing = Healing("pruned", partial(surgery.prune_heads, heads=heads), (200, 300), silenced=heads)
    candidates = [
        *(one for one in benign() if one.name in BENIGN),
        *planter.heal("heads pruned, healed", healing, heads, "int4-rtn"),
        *[one for one in swapped(planter) if one.run is None][:5],
        *[one for one in scaled(planter) if one.truth == "fault"][:2],
        *[one for one in scaled(planter) if one.truth == "fault" and "int8-rtn" in one.name],
        *[one for one in averaged(planter) if one.truth == "fault"][:1],
        *[one for one in rotary(planter) if one.truth == "fault"][:1],
        *list(unused(planter))[:2],
    ]
    judge = Judge(reference, baselines)
    return [judge.row(candidate) for candidate in candidates]


def of(rows, truth):
    return [row for row in rows if row.truth == truth]


def test_what_was_built(rows):
    assert len(of(rows, "benign")) == len(BENIGN)
    assert len(of(rows, "fault")) >= 12
    assert len(of(rows, "unused-head")) == 2


def test_benign_candidates_pass(rows):
    assert {row.name: row.red for row in of(rows, "benign") if row.word != "PASS"} == {}


def test_faults_are_caught(rows):
    assert [row.name for row in of(rows, "fault") if row.word == "PASS"] == []


def test_faults_in_heads_that_no_task_uses_are_seen_in_what_these_write_alone(rows):
    for row in of(rows, "unused-head"):
        assert {name.partition("/")[2] for name in row.red} == {"drift_largest"}, row.name


def test_scores_are_apart_where_kl_divergence_is_not(rows):
    """The faults whose KL divergence is no larger than a benign candidate's, against all benign ones."""
    largest = max(row.scores["kl"] for row in of(rows, "benign"))
    hidden = [row for row in of(rows, "fault") if row.scores["kl"] <= largest]
    assert any(row.run for row in hidden), "a healed prune is among them"
    assert len(hidden) >= 6

    def area(name):
        return roc_area([row.scores[name] for row in of(rows, "benign")], [row.scores[name] for row in hidden])

    assert area("circuitcheck").value == 1
    assert area("profile_distance").value == 1
    assert area("kl").value < 0.9


def test_rows_are_json(rows):
    for row in rows:
        assert json.loads(json.dumps(row.scores)) == row.scores
        assert all(np.isfinite(value) for value in row.scores.values() if value != -np.inf)
