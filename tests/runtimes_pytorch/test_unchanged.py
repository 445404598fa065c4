"""Check 4: a measurement leaves the model as it found it."""

from __future__ import annotations

import re

import micro_model
import pytest
import tiny_models
import torch
from torch import nn

from circuitcheck.core.errors import ModelChangedError
from circuitcheck.runtimes.pytorch.unchanged import unchanged

IDS = torch.tensor([[2, 0], [1, 3]])


def leak_a_hook(module):
    module.layers[0].attention.register_forward_hook(lambda *_: None)


def leak_a_pre_hook(module):
    module.layers[0].attention.register_forward_pre_hook(lambda *_: None)


def replace_a_hook(module):
    """The number of hooks stays the same."""
    module.unembed._forward_hooks.clear()
    module.unembed.register_forward_hook(lambda *_: None)


def write_to_a_parameter(module):
    with torch.no_grad():
        module.unembed.bias.add_(1)


def write_to_a_parameter_and_back(module):
    with torch.no_grad():
        module.unembed.bias.add_(1).sub_(1)


def replace_a_parameter(module):
    module.unembed.bias = nn.Parameter(module.unembed.bias.detach().clone())


def replace_a_parameters_data(module):
    module.unembed.bias.data = module.unembed.bias.data.clone()


def freeze_a_parameter(module):
    module.unembed.bias.requires_grad_(False)


def leave_a_gradient(module):
    module(IDS).sum().backward()


def write_to_a_buffer(module):
    module.counter += 1


def change_a_training_flag(module):
    module.layers[0].attention.train()


def shadow_forward(module):
    module.unembed.forward = lambda hidden: hidden


def replace_a_module(module):
    module.unembed = nn.Linear(2, 4)


CHANGES = {
    leak_a_hook: "layers.0.attention hooks",
    leak_a_pre_hook: "layers.0.attention hooks",
    replace_a_hook: "unembed hooks",
    write_to_a_parameter: "unembed.bias",
    write_to_a_parameter_and_back: "unembed.bias",
    replace_a_parameter: "unembed.bias",
    replace_a_parameters_data: "unembed.bias",
    freeze_a_parameter: "unembed.bias",
    leave_a_gradient: "unembed.bias",
    write_to_a_buffer: "counter",
    change_a_training_flag: "layers.0.attention training flag",
    shadow_forward: "unembed attributes",
    replace_a_module: "unembed.weight",
}


def changeable_model():
    module = micro_model.MicroModel(micro_model.FIRST_LAYER)
    module.register_buffer("counter", torch.zeros(1))
    module.unembed.register_forward_hook(lambda *_: None)
    return micro_model.hook_micro(module, name="changed")


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_a_measurement_leaves_changed_is_named(change):
    model = changeable_model()
    message = rf"changed: .* other than it found them: .*{re.escape(CHANGES[change])}"
    with pytest.raises(ModelChangedError, match=message), unchanged(model):
        change(model.module)


def test_a_measurement_that_leaves_everything_alone_passes():
    model = changeable_model()
    with unchanged(model):
        model.module(IDS)


def test_a_measurements_own_error_is_not_hidden_by_what_it_left():
    def leak_and_fail(module):
        leak_a_hook(module)
        raise ZeroDivisionError

    model = changeable_model()
    with pytest.raises(ZeroDivisionError), unchanged(model):
        leak_and_fail(model.module)


def test_a_write_behind_autograds_back_is_seen():
    """Writes through `.data` leave a tensor's version as it was."""
    model = tiny_models.tiny_model()
    weight = model.module.get_submodule(model.structure.layers[0].projection).weight
    with pytest.raises(ModelChangedError, match=r"dense\.weight \(contents\)"), unchanged(model):
        weight.data.mul_(1.5)
