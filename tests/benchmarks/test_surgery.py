from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from detection import surgery
from detection.anatomy import head_maps
from detection.texts import training_text


@pytest.fixture
def damaged(reference):
    return replace(reference, module=deepcopy(reference.module))


@torch.no_grad()
def logits(model):
    return model.module(next(training_text(20_000))[:8]).logits


def test_a_pruned_head_writes_nothing(reference, damaged):
    surgery.prune_heads(damaged.module, [(2, 7), (1, 0)])
    before = logits(damaged)
    assert not torch.equal(before, logits(reference))
    # whatever the silent heads compute, nothing comes of it
    for layer, head in ((2, 7), (1, 0)):
        maps = head_maps(damaged.module, layer)
        for parts in (maps.queries, maps.keys, maps.values):
            parts[head].weight.mul_(-3)
    assert torch.equal(before, logits(damaged))


def test_only_that_heads_columns_are_scaled(reference, damaged):
    surgery.scale_head(damaged.module, (1, 2), 0.5)
    ours, theirs = (model.module.gpt_neox.layers[1].attention.dense.weight for model in (damaged, reference))
    width = reference.structure.layers[1].d_head
    changed = torch.zeros_like(ours, dtype=torch.bool)
    changed[:, 2 * width : 3 * width] = True
    assert torch.equal(ours[changed], theirs[changed] * 0.5)
    assert torch.equal(ours[~changed], theirs[~changed])


def test_miswired_heads_do_not(reference, damaged):
    surgery.miswire_heads(damaged.module, (1, 0), (1, 5))
    assert (logits(damaged) - logits(reference)).abs().max() > 1
    surgery.miswire_heads(damaged.module, (1, 0), (1, 5))
    assert torch.equal(logits(damaged), logits(reference))


def test_heads_of_two_layers_cannot_be_swapped(damaged):
    with pytest.raises(ValueError, match="different layers"):
        surgery.miswire_heads(damaged.module, (1, 0), (2, 0))


def test_a_rounded_projection_has_few_values(damaged):
    surgery.round_projection(damaged.module, "gpt_neox.layers.2.mlp.dense_4h_to_h", 2)
    weight = damaged.module.gpt_neox.layers[2].mlp.dense_4h_to_h.weight
    assert max(len(row.unique()) for row in weight) == 3


def test_the_usual_rotary_base_changes_nothing(reference, damaged):
    surgery.set_rotary_base(damaged.module, 10_000.0)
    assert torch.equal(logits(damaged), logits(reference))
    surgery.set_rotary_base(damaged.module, 10.0)
    assert not torch.equal(logits(damaged), logits(reference))


def test_a_layers_attention_becomes_its_mean(reference, damaged):
    ids = next(training_text(20_000))[:8]
    outputs = {}
    for name, model in (("before", reference), ("after", damaged)):
        if name == "after":
            surgery.replace_by_mean(damaged.module, 1, 1.0, ids)
        attention = model.module.gpt_neox.layers[1].attention
        handle = attention.register_forward_hook(lambda _, __, output, name=name: outputs.update({name: output[0]}))
        with torch.no_grad():
            model.module(ids)
        handle.remove()
    mean = outputs["before"].mean(dim=(0, 1))
    # means of 256 float32 values of order 1
    assert torch.allclose(outputs["after"], mean.expand_as(outputs["after"]), atol=1e-5)
