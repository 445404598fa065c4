from collections import Counter

import numpy as np
import pytest
import torch
from detection.benign import benign, rounded
from detection.evaluate import reordered
from detection.faults import Planter, faults, scaled
from detection.texts import evaluation_text
from detection.truth import (
    attention_moved,
    circuit_heads,
    importance_shares,
    minor_heads,
    mlp_shares,
    rounding_error,
    severities,
    truth_of,
    unused_heads,
)

from circuitcheck.runtimes.pytorch.loading.fingerprint import fingerprint_module

SHARES = {"a": {(0, 0): 1.0, (0, 1): 0.2, (1, 0): 0.01}, "b": {(0, 0): 0.1, (0, 1): 1.0, (1, 0): 0.04}}


def test_heads_by_hand():
    assert circuit_heads(SHARES) == [(0, 0), (0, 1)]
    assert minor_heads(SHARES) == []
    assert minor_heads({"a": {(0, 0): 1.0, (0, 1): 0.1, (1, 0): 0.2}}) == [(1, 0), (0, 1)]


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ({(0, 0): 1.0}, ("fault", ("a",))),
        ({(0, 1): 0.5}, ("fault", ("b",))),
        ({(0, 0): 0.5, (0, 1): 0.5}, ("fault", ("a", "b"))),
        ({(0, 0): 0.1}, ("minor", ())),
        ({(1, 0): 1.0}, ("unused-head", ())),
    ],
)
def test_truth_by_hand(taken, expected):
    assert truth_of(severities(SHARES, taken)) == expected


def test_shares_are_the_references(baselines):
    shares = importance_shares(baselines)
    for task, baseline in baselines.items():
        importance = np.abs(baseline.importance("resample"))
        assert max(shares[task].values()) == 1
        assert shares[task][baseline.measured[int(importance.argmin())]] == importance.min() / importance.max()


def test_unused_heads_are_unused_under_every_ablation(baselines):
    unused = unused_heads(baselines)
    assert len(unused) >= 4
    for baseline in baselines.values():
        for importance in map(baseline.importance, ("resample", "mean", "zero")):
            share = dict(zip(baseline.measured, np.abs(importance) / np.abs(importance).max(), strict=True))
            assert all(share[head] < 0.05 for head in unused)


def test_shares_of_mlps(reference, baselines):
    """An MLP's share is what the metric loses with its output taken from the counterfactual, all heads untouched."""
    shares = mlp_shares(reference, baselines)
    assert {task: len(of) for task, of in shares.items()} == {"ioi": 4, "facts": 4}
    assert all(share > 0 for of in shares.values() for share in of)
    assert not any(part._forward_hooks for part in reference.module.modules())


def test_attention_does_not_move_by_itself(reference, baselines):
    moved = attention_moved(reference, reference, baselines["facts"])
    assert set(moved) == set(reference.layout("head").units)
    assert set(moved.values()) == {0.0}


def test_enough_benign_candidates_of_every_kind():
    candidates = benign()
    assert len(candidates) >= 200
    assert len({one.name for one in candidates}) == len(candidates)
    assert {one.truth for one in candidates} == {"benign"}
    families = Counter(one.family for one in candidates)
    assert {"reference", "f16", "bf16", "int8-sim"} < set(families)
    assert {"heads rotated", "heads renumbered", "stream rotated", "all together"} < set(families)
    assert sum(family.startswith("int4-rtn g") for family in families) >= 4


def test_enough_faults_of_every_kind(reference, baselines, cache):
    planted = faults(reference, baselines, cache)
    assert len({one.name for one in planted}) == len(planted)
    truths = Counter(one.truth for one in planted)
    assert truths["fault"] >= 100
    assert min(truths[truth] for truth in ("minor", "unused-head", "control")) >= 4
    assert all(bool(one.tasks) == (one.truth == "fault") for one in planted)
    families = Counter(one.family for one in planted if one.truth == "fault")
    assert families["look-alike"] >= 20
    assert "heads renumbered" not in families, "they are the same computation"
    assert not list(cache.iterdir()), "nothing is trained before it is built"


def test_a_seed_gives_one_model():
    one, again, other = (fingerprint_module(rounded(4, 32, seed).module) for seed in (1, 1, 2))
    assert one == again != other


def test_building_leaves_the_reference_alone(reference, baselines, cache):
    before = fingerprint_module(reference.module)
    planter = Planter(reference, baselines, cache)
    candidate = next(one for one in scaled(planter) if one.precision == "int8-rtn" and one.truth == "fault")
    model = candidate.build()
    assert model.precision == "int8-rtn"
    assert fingerprint_module(reference.module) == before != fingerprint_module(model.module)
    assert fingerprint_module(candidate.build().module) == fingerprint_module(model.module)


def test_another_order_is_the_same_recording(baselines):
    baseline = baselines["ioi"]
    other = reordered(baseline, seed=0)
    assert other.task.pairs != baseline.task.pairs
    assert sorted(map(str, other.task.pairs)) == sorted(map(str, baseline.task.pairs))
    # sums of the same numbers in another order
    assert other.importance("resample") == pytest.approx(baseline.importance("resample"), abs=1e-9)
    here = {baseline.task.pairs[place]: rows for place, rows in zip(baseline.z.index, _z(baseline), strict=True)}
    there = {other.task.pairs[place]: rows for place, rows in zip(other.z.index, _z(other), strict=True)}
    assert here.keys() == there.keys()
    assert all(np.array_equal(here[pair], there[pair]) for pair in here)
    assert list(other.z.index) == sorted(other.z.index)
    metric = dict(zip(baseline.task.pairs, baseline.metric, strict=True))
    assert all(metric[pair] == value for pair, value in zip(other.task.pairs, other.metric, strict=True))


def _z(baseline):
    return [baseline.z.rows([place])[2] for place in baseline.z.index]


def test_rounding_error_is_what_the_map_gives_wrong(reference):
    path, ids = "gpt_neox.layers.1.mlp.dense_h_to_4h", evaluation_text(8)
    errors = [rounding_error(reference, path, bits, ids) for bits in (2, 3, 8)]
    assert errors == sorted(errors, reverse=True)
    assert 0.1 < errors[1] < 1
    # steps of 1/127 of the largest weight of a channel, whose other weights are not much smaller
    assert errors[2] < 0.01
    weight = reference.module.get_submodule(path).weight
    assert type(weight) is torch.nn.Parameter
