from functools import partial

import pytest
import torch
from detection import surgery
from detection.anatomy import head_maps
from detection.healing import Healing, distil, divergence, healed
from detection.texts import training_text

HEADS = ((2, 7), (1, 0))


def pruning(**options):
    return Healing("test", partial(surgery.prune_heads, heads=HEADS), (5, 15), silenced=HEADS, **options)


def loaded(reference, weights):
    from copy import deepcopy

    module = deepcopy(reference.module)
    module.load_state_dict(weights)
    return module


@pytest.fixture(scope="module")
def weights(reference):
    return distil(pruning(), reference.module)


def test_healed_heads_stay_silent_and_outputs_come_closer(reference, weights):
    assert list(weights) == [5, 15]
    ids, distances = next(training_text(20_000))[:32], []
    for stop in (5, 15):
        module = loaded(reference, weights[stop])
        assert all(surgery.output_columns(module, head).abs().max() == 0 for head in HEADS)
        with torch.no_grad():
            distances.append(float(divergence(reference.module, module, ids)))
    assert distances[1] < distances[0]


def test_the_reference_is_left_alone(reference, weights):
    assert surgery.output_columns(reference.module, (2, 7)).abs().max() > 0
    with torch.no_grad():
        # the two sides are the same floating-point numbers
        assert float(divergence(reference.module, reference.module, next(training_text(20_000))[:8])) == 0


def test_same_seed_same_weights(reference, weights):
    again, other = distil(pruning(), reference.module), distil(pruning(seed=1), reference.module)
    name = "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"
    assert torch.equal(again[5][name], weights[5][name])
    assert not torch.equal(other[5][name], weights[5][name])


def test_weights_are_trained_once(reference, tmp_path, monkeypatch):
    first = healed(pruning(), reference.module, 15, tmp_path)
    key = pruning().key(reference.module)
    assert {file.name for file in tmp_path.glob("*.safetensors")} == {f"{key}-{stop}.safetensors" for stop in (5, 15)}
    assert key != pruning(seed=1).key(reference.module)
    monkeypatch.setattr("detection.healing.distil", lambda *_: pytest.fail("trained again"))
    again = healed(pruning(), reference.module, 15, tmp_path)
    assert all(torch.equal(first[name], again[name]) for name in first)
    with pytest.raises(ValueError, match=r"kept at steps \(5, 15\), not at 7"):
        healed(pruning(), reference.module, 7, tmp_path)


def test_a_starved_head_is_driven_out_but_lives(reference):
    healing = Healing("starved", lambda _: None, (10, 20), starved=((2, 7),))
    assert [healing.allowance(step) for step in (0, 5, 10, 15, 20)] == pytest.approx([1, 2 / 3, 1 / 3, 0.1, 0.1])
    weights = distil(healing, reference.module)
    before = surgery.output_columns(reference.module, (2, 7)).norm()
    for stop in (10, 20):
        module = loaded(reference, weights[stop])
        left = surgery.output_columns(module, (2, 7)).norm() / before
        # the norm is a float32 sum of 2048 squares
        assert 0 < left <= healing.allowance(stop) * (1 + 1e-5)
        ours, theirs = head_maps(module, 2), head_maps(reference.module, 2)
        for part in ("queries", "keys", "values"):
            here, there = getattr(ours, part)[7], getattr(theirs, part)[7]
            assert torch.equal(here.weight, there.weight)
            assert torch.equal(here.bias, there.bias)
