"""Whether a prompt's logits depend on its batch mates, on batch size or on threads is found out, not assumed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_circuits
import tiny_models
import torch
from quick_recording import record
from torch import Tensor, nn
from transformers import PreTrainedModel

from circuitcheck.gate.measure import measure
from circuitcheck.runtimes.pytorch.batching import needs_probe, with_batching
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.load import hook_module


@pytest.fixture
def model() -> HookedModel:
    return tiny_models.tiny_model("llama")


def after(model: HookedModel, change) -> None:
    """`change(output)` in place of the first layer's output."""
    layer = model.module.get_submodule(model.structure.layers[0].path)

    def hook(_: nn.Module, __: tuple[object, ...], output: Tensor) -> Tensor:
        return change(output)

    layer.register_forward_hook(hook)


def test_a_float_model_is_left_as_it_is_or_varies_within_rounding(model):
    probed = with_batching(model, tiny_models.token_ids(4, 6))
    assert probed.batch_size is None
    assert all("within rounding" in note for note in probed.notes)


def test_one_activation_scale_for_a_whole_batch_is_found(model):
    """As in per-tensor dynamic quantization: 255 levels up to the largest value of the batch."""

    def per_tensor(output: Tensor) -> Tensor:
        scale = output.abs().max() / 127
        return (output / scale).round() * scale

    after(model, per_tensor)
    probed = with_batching(model, tiny_models.token_ids(4, 6))
    assert probed.batch_size == 1
    assert probed.notes == (
        "Measured one row at a time, because a prompt's logits depend on the other prompts of its batch.",
    )


def test_one_activation_scale_for_each_prompt_is_no_reason(model):
    def per_prompt(output: Tensor) -> Tensor:
        scale = output.abs().amax((1, 2), keepdim=True) / 127
        return (output / scale).round() * scale

    after(model, per_prompt)
    assert with_batching(model, tiny_models.token_ids(4, 6)).batch_size is None


@pytest.mark.parametrize(("relative", "alone"), [(1e-2, True), (1e-7, False)])
def test_a_batch_size_that_counts_is_found_unless_rounding_explains_it(model, relative, alone):
    after(model, lambda output: output * (1 + relative * len(output)))
    probed = with_batching(model, tiny_models.token_ids(4, 6))
    assert (probed.batch_size == 1) is alone
    word = "Measured one row at a time, because a prompt's logits depend on" if alone else "within rounding"
    assert word in probed.notes[-1]


def test_values_that_are_not_finite_do_not_pass_for_rounding(model):
    after(model, lambda output: output * (float("nan") if len(output) == 1 else 1.0))
    assert with_batching(model, tiny_models.token_ids(4, 6)).batch_size == 1


@pytest.mark.parametrize("prompts", [1, 2])
def test_a_task_of_few_prompts_is_probed_too(model, prompts):
    after(model, lambda output: output / output.abs().max())
    assert with_batching(model, tiny_models.token_ids(prompts, 6)).batch_size == 1


class OneScale(nn.Module):
    """A linear map in 8-bit codes whose kernel rounds activations by one scale for a whole batch."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("scale", linear.weight.detach().abs().amax() / 127)
        self.register_buffer("weight", (linear.weight.detach() / self.scale).round().to(torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        step = x.abs().amax() / 127
        return (x / step).round() @ (self.weight.float() * self.scale * step).T


def one_scale(module: PreTrainedModel) -> PreTrainedModel:
    for layer in module.model.layers:
        layer.mlp.down_proj = OneScale(layer.mlp.down_proj)
    return module


def dynamic(module: PreTrainedModel) -> PreTrainedModel:
    """As PyTorch itself quantizes, activations by one scale for a whole batch."""
    quantized: PreTrainedModel = torch.ao.quantization.quantize_dynamic(module, {nn.Linear})
    return quantized


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("change", [one_scale, dynamic])
def test_a_quantized_module_is_probed_whatever_it_is_called(model, change):
    """`f32` is what a module in memory is called where its owner says nothing."""
    task = tiny_circuits.solvable_task(model)
    candidate = hook_module(change(tiny_models.tiny_module("llama")), name="llama")
    assert candidate.precision == "f32"
    assert needs_probe(candidate)
    measured = measure(candidate, record(model, task))
    assert measured.batch_size == 1
    assert "depend on the other prompts of its batch" in " ".join(measured.notes)


@pytest.mark.parametrize("name", ["gpt_neox", "gpt2", "mixtral", "bert"])
def test_float32_models_need_no_probe(name):
    assert not needs_probe(tiny_models.tiny_model(name))


def test_what_is_not_known_to_run_in_float32_throughout_is_probed(model):
    assert needs_probe(replace(model, precision="int8-sim"))
    assert needs_probe(replace(model, census=None))
    assert needs_probe(hook_module(model.module.to(torch.bfloat16)))
    assert not needs_probe(replace(model, precision="f16", batch_size=1))


def test_the_model_is_left_as_it_was_found(model):
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    probed = with_batching(model, tiny_models.token_ids(4, 6))
    assert probed.module is model.module
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.module.state_dict().items())
    assert not any(part._forward_pre_hooks for part in model.module.modules())
