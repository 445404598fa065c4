"""Hooks read copies, write nowhere but into the pass, and are gone afterwards, also when the pass raises."""

from __future__ import annotations

import micro_model
import patches
import pytest
import torch
from torch import nn

from circuitcheck.core.errors import ModelError
from circuitcheck.core.patch import Patch
from circuitcheck.runtimes.pytorch.forward import final_hidden, last_logits
from circuitcheck.runtimes.pytorch.hooks import post_hook, pre_hook, record_input
from circuitcheck.runtimes.pytorch.ports.ports import reading

IDS = torch.tensor([[2, 0], [1, 3]])
PROMPTS = micro_model.micro_task().prompts()
ABLATION, ZERO = Patch("head", (((0, 0),),), "mean"), Patch("head", (), "zero")


class PassFailedError(RuntimeError):
    """What the model below raises."""


class RaisesAtTheEnd(micro_model.MicroModel):
    """Fails after its attention has run, when every hook has been called."""

    def forward(self, ids):
        super().forward(ids)
        raise PassFailedError


class WritesToItsHeads(micro_model.MicroAttention):
    """Uses its heads' storage again once the projection has read it."""

    def forward(self, residual):
        previous = torch.zeros_like(residual)
        previous[:, 1:] = residual[:, :-1]
        heads = torch.stack([previous, residual.cumsum(1)], dim=2).flatten(-2)
        output = self.project(heads)
        heads.fill_(99.0)
        return output


def hook_count(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def raising_model():
    return micro_model.hook_micro(RaisesAtTheEnd(micro_model.FIRST_LAYER))


PASSES = {
    "reading": lambda model: enter_and_run(reading(model.module, model.ports("head")), model),
    "editing": lambda model: enter_and_run(patches.edited(model, {0: torch.zeros_like}), model),
    "record_input": lambda model: enter_and_run(record_input(model.module.unembed), model),
    "pre_hook": lambda model: enter_and_run(pre_hook(model.module.embed, lambda *_: None), model),
    "post_hook": lambda model: enter_and_run(post_hook(model.module.embed, lambda *_: None), model),
    "final_hidden": lambda model: final_hidden(model, IDS),
    "metric": lambda model: model.metric(PROMPTS),
    "activations": lambda model: model.activations(PROMPTS, "head"),
    "replacements": lambda model: model.replacements(PROMPTS, ABLATION),
    "patched": lambda model: model.patched(PROMPTS, ABLATION),
    "patched by full passes": lambda model: model.patched(PROMPTS, ABLATION, engine="full"),
    "gradient": lambda model: model.gradient(PROMPTS, "head"),
    "gradient, held": lambda model: model.gradient(PROMPTS, "head", model.replacements(PROMPTS, ZERO), held=True),
    "prove": lambda model: model.prove(PROMPTS, "head"),
}


def enter_and_run(hooks, model):
    with hooks:
        assert hook_count(model.module) == 1, "the hook that must go away is there to begin with"
        last_logits(model, IDS)


@pytest.mark.parametrize("name", PASSES)
def test_hooks_are_removed_when_the_forward_pass_raises(name):
    model = raising_model()
    with pytest.raises(ModelError if name == "metric" else PassFailedError):  # the first pass says it of the model
        PASSES[name](model)
    assert hook_count(model.module) == 0


@pytest.mark.parametrize("name", PASSES)
def test_hooks_are_removed_after_a_pass(name):
    model = micro_model.one_layer()
    PASSES[name](model)
    assert hook_count(model.module) == 0


def test_hooks_are_removed_when_an_edit_raises():
    def edit(_):
        raise PassFailedError

    model = micro_model.one_layer()
    with pytest.raises(PassFailedError), patches.edited(model, {0: edit}):
        last_logits(model, IDS)
    assert hook_count(model.module) == 0


def test_recorded_z_is_a_clone():
    module = micro_model.MicroModel(micro_model.FIRST_LAYER)
    module.layers[0].attention = WritesToItsHeads(*micro_model.FIRST_LAYER)
    model = micro_model.hook_micro(module)
    with torch.no_grad(), reading(model.module, model.ports("head")) as z:
        last_logits(model, IDS)
    assert z[0][0, -1].tolist() == [[2, 1], [3, 1]]


def test_recorded_z_carries_no_graph():
    model = micro_model.one_layer()
    with reading(model.module, model.ports("head")) as z:
        assert last_logits(model, IDS).requires_grad
    assert not z[0].requires_grad


@pytest.mark.parametrize("engine", ["replay", "full"])
def test_edits_do_not_write_to_the_tensors_they_are_given(engine):
    model = micro_model.one_layer()
    values = [torch.full((2, 2, 2, 2), 7.0)]
    ids, answer, foil = IDS.clone(), torch.tensor([0, 2]), torch.tensor([1, 3])
    given = [*values, ids, answer, foil]
    before = [tensor.clone() for tensor in given]
    versions = [tensor._version for tensor in given]
    replaced = patches.patched_rows(model, ids, answer, foil, values, [{(0, 0)}, {(0, 0), (0, 1)}], engine=engine)
    nothing = patches.patched_rows(model, ids, answer, foil, values, [set()], engine=engine)
    assert not torch.equal(replaced[0], nothing[0]), "the edits are at work"
    assert [tensor._version for tensor in given] == versions
    assert all(torch.equal(now, then) for now, then in zip(given, before, strict=True))


def test_edits_write_to_the_chosen_head_and_no_other():
    model = micro_model.one_layer()
    values = [torch.full((2, 2, 2, 2), 7.0)]
    seen = []
    before = patches.read(model, IDS)
    projection = model.module.layers[0].attention.project
    original = projection.forward
    projection.forward = lambda z: (seen.append(z), original(z))[1]
    answer, foil = torch.tensor([0, 0]), torch.tensor([1, 1])
    patches.patched_rows(model, IDS, answer, foil, values, [{(0, 1)}], engine="full")
    (written,) = (z.unflatten(-1, (2, 2)) for z in seen)
    assert torch.equal(written[:, :, 0], before[0][:, :, 0])
    assert (written[:, :, 1] == 7).all()


@pytest.mark.parametrize("training", [True, False])
def test_training_flags_are_restored_one_by_one(training):
    model = micro_model.one_layer()
    model.module.train(training)
    model.module.embed.train(not training)
    with model.unchanged():
        assert not any(part.training for part in model.module.modules())
    assert model.module.training is training
    assert model.module.layers[0].training is training
    assert model.module.embed.training is not training


def test_training_flags_are_restored_when_the_measurement_raises():
    model = micro_model.one_layer()
    model.module.train()
    with pytest.raises(PassFailedError), model.unchanged():
        raise PassFailedError
    assert all(part.training for part in model.module.modules())


def test_gradients_are_not_left_in_parameters():
    model = micro_model.one_layer()
    with model.unchanged():
        model.gradient(PROMPTS, "head")
    assert all(parameter.grad is None for parameter in model.module.parameters())


@pytest.mark.parametrize("frozen", [True, False])
def test_gradient_does_not_need_trainable_weights_nor_an_open_graph(frozen):
    model = micro_model.one_layer()
    model.module.requires_grad_(not frozen)
    with torch.no_grad():
        _, gradient = model.gradient(micro_model.micro_task().prompts([0]), "head")
    assert gradient.groups[0][-1].tolist() == [[2, -1], [-0.5, 1]]
