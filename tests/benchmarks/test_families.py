"""What is done to a model, by every family, on three architectures."""

import numpy as np
import pytest
import torch
from detection.anatomy import linear_maps, matrix
from detection.families import FAMILIES
from detection.healing import distil
from detection.truth import reference_answers

from circuitcheck.runtimes.pytorch.loading.fingerprint import fingerprint_module

NAMES = ("embedded", "known-induction", "known-lookup")
MISSING = {
    ("known-lookup", "biases dropped"),
    ("known-induction", "biases dropped"),
    ("known-lookup", "gains of norms dropped"),
    ("known-induction", "gains of norms dropped"),
    ("known-induction", "torchao's kernels"),
}
"""Rotated norms have gains of one, biases of the one set by hand are zero, and torchao skips GPT-2's `Conv1D`."""

TRAINED = {
    "head pruned, healed",
    "two heads pruned, healed",
    "heads miswired, healed",
    "task moved by a fine-tune",
    "layer of another checkpoint",
}


@torch.no_grad()
def moved(model, module) -> float:
    """Largest change of a logit on some of the model's text, relative to the largest."""
    ids = model.evaluation[:4]
    before = model.module(ids).logits
    return float((module(ids).logits.float() - before).abs().max() / before.abs().max())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in TRAINED])
def test_every_family_does_what_it_is_for_and_leaves_the_reference_alone(models, cache, name, family):
    model, kind = models[name], FAMILIES[family]
    before, steps = fingerprint_module(model.module), []
    if (name, family) in MISSING:
        with pytest.raises(LookupError):
            kind.make(model, 0, kind.precisions[0], cache)
        return
    for precision in kind.precisions:
        module, touched = kind.make(model, 0, precision, cache)
        assert set(touched) <= {(layer, head) for layer in range(8) for head in range(8)}
        steps.append(moved(model, module))
    assert fingerprint_module(model.module) == before
    if kind.benign:
        # what computes the same does so up to float32 rounding; coarser numbers move more
        assert all(step < 1e-3 for step, precision in zip(steps, kind.precisions, strict=True) if precision == "f32")
        # torchao's float8 makes NaN of rows of zeros, of which the queries set by hand have many
        assert not any(step >= 1 for step in steps)
    else:
        assert moved(model, kind.alone(model, 0, cache)[0]) > 1e-4


@pytest.mark.parametrize("family", sorted(TRAINED - {"layer of another checkpoint"}))
def test_two_variants_share_a_training(models, cache, monkeypatch, family):
    monkeypatch.setattr("detection.faults.STOPS", (2, 4))
    model, trained = models["known-lookup"], []
    monkeypatch.setattr("detection.healing.distil", lambda *some: trained.append(some) or distil(*some))
    modules = [FAMILIES[family].make(model, seed, "8-bit", cache)[0] for seed in (0, 1)]
    assert len(trained) == 1
    assert fingerprint_module(modules[0]) != fingerprint_module(modules[1])
    with pytest.raises(LookupError, match="no more than"):
        FAMILIES[family].make(model, 99, "8-bit", cache)


def test_a_layer_of_another_checkpoint(models, cache):
    model = models["known-lookup"]
    module, _ = FAMILIES["layer of another checkpoint"].alone(model, 0, cache)
    changed = [
        not torch.equal(matrix(one), matrix(other))
        for (_, one), (_, other) in zip(linear_maps(module), linear_maps(model.module), strict=True)
    ]
    assert sum(changed) == len(changed) / 2


def test_a_seed_gives_one_model(models, cache):
    for family in ("rounded stochastically", "adapter in a head", "wrong scale of a block"):
        one, again, other = (
            fingerprint_module(FAMILIES[family].make(models["known-lookup"], seed, "8-bit", cache)[0])
            for seed in (1, 1, 2)
        )
        assert one == again != other


def test_what_a_fault_touches_is_what_it_changes(models, cache):
    """An edit of heads moves those alone: with what they write taken away on both sides, nothing is left of it."""
    model = models["known-lookup"]
    for family in ("head pruned", "head scaled", "heads miswired", "adapter in a head", "noise in a head"):
        module, touched = FAMILIES[family].make(model, 0, "f32", cache)
        assert touched
        silent = [_without(one, touched) for one in (model.module, module)]
        ids = model.evaluation[:4]
        with torch.no_grad():
            ours, theirs = (one(ids).logits for one in silent)
        assert torch.allclose(ours, theirs, atol=1e-5), family


def _without(module, heads):
    from copy import deepcopy

    from detection.surgery import prune_heads

    copy = deepcopy(module)
    prune_heads(copy, heads)
    return copy


def test_heads_that_read_other_groups(models, cache):
    """Of four heads with two groups: 0 and 2 read the first one, 1 and 3 the second."""
    from detection.anatomy import head_maps
    from detection.surgery import interleave_queries

    module = FAMILIES["computed again"].make(models["known-lookup"], 0, "f32", cache)[0]
    before = head_maps(models["known-lookup"].module, 0)
    interleave_queries(module, 0)
    after = head_maps(module, 0)
    assert [
        torch.equal(after.queries[place].weight, before.queries[head].weight) for place, head in enumerate((0, 2, 1, 3))
    ] == [True] * 4
    assert torch.equal(after.outputs[1], before.outputs[2])
    assert torch.equal(after.values[0].weight, before.values[0].weight)
    with pytest.raises(LookupError):
        interleave_queries(models["embedded"].module, 0)


@pytest.mark.parametrize("name", ["sees one ahead", "does not see the first", "does not see the one before"])
def test_masks_are_off_by_one(name):
    from detection.surgery import MASKS

    low = torch.finfo(torch.float32).min
    right = torch.full((4, 4), low).triu(1)[None, None]
    seen = (MASKS[name](right)[0, 0] == 0).int().tolist()
    expected = {
        "sees one ahead": [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]],
        "does not see the first": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]],
        "does not see the one before": [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]],
    }
    assert seen == expected[name]


def test_a_wrong_mask_costs_the_model_its_answers(models, cache):
    """A copying head that cannot see the word before it finds nothing to copy."""
    from detection.surgery import mask_wrongly
    from detection.truth import answers, lost_share

    model = models["known-induction"]
    module = FAMILIES["computed again"].make(model, 0, "f32", cache)[0]
    mask_wrongly(module, "does not see the one before", [0])
    found = answers(module, model.tasks["copy"].fresh, profiled=False)
    assert lost_share(reference_answers(model, "copy"), found) > 0.2
    assert np.isfinite(found.metric).all()
