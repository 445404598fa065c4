"""The metric applies the unembedding's two rows in float32: half precision would round it away."""

from __future__ import annotations

import micro_model
import pytest
import torch
from torch import nn

from circuitcheck.runtimes.pytorch.forward import final_hidden, last_logits, logit_difference

HALVES = [torch.float16, torch.bfloat16]


def model_whose_logits_tie(dtype):
    """Logits of about 4096, where the next numbers are 4 (float16) or 32 (bfloat16) away; the rows differ by 1/2.

    A whole vocabulary with these two rows: (1, 0) and (1, 1), read at r = (4096, 1/2).
    """
    module = micro_model.MicroModel()
    module.embed.weight.data[0] = torch.tensor([4096.0, 0.5])
    module.unembed = nn.Linear(2, 2, bias=False)
    module.unembed.weight.data.copy_(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    return micro_model.hook_micro(module.to(dtype), 0)


@pytest.mark.parametrize("dtype", HALVES)
def test_float32_rows_tell_apart_what_half_precision_logits_tie(dtype):
    model = model_whose_logits_tie(dtype)
    ids, answer, foil = torch.tensor([[0]]), torch.tensor([1]), torch.tensor([0])
    with torch.no_grad():
        logits = last_logits(model, ids)
        assert logits.dtype == dtype
        assert logits[0, 0] == logits[0, 1]
        metric = logit_difference(model, final_hidden(model, ids), answer, foil)
    assert metric.dtype == torch.float32
    assert metric.tolist() == [0.5]


@pytest.mark.parametrize("dtype", HALVES)
def test_bias_of_a_half_precision_unembedding_counts_in_float32(dtype):
    module = micro_model.MicroModel(micro_model.FIRST_LAYER).to(dtype)
    model = micro_model.hook_micro(module)
    with torch.no_grad():
        hidden = final_hidden(model, torch.tensor([[2, 0]]))
        metric = logit_difference(model, hidden, torch.tensor([0]), torch.tensor([1]))
    # the micro model's numbers fit into 8 bits of mantissa, so that half precision is exact here too
    assert metric.tolist() == [3.75]


class Rounds(nn.Module):
    """An unembedding that has a weight, but is not that weight's linear map."""

    def __init__(self, linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, hidden):
        return nn.functional.linear(hidden, self.weight, self.bias).round()


class HoldsIntegers(nn.Linear):
    """A quantized linear map in the place of an ordinary one: its weight is a number of steps."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features)
        self.weight = nn.Parameter(linear.weight.detach().to(torch.int8), requires_grad=False)
        self.bias = linear.bias

    def forward(self, hidden):
        return nn.functional.linear(hidden, self.weight.float(), self.bias).round()


class InDisguise(torch.Tensor):
    """A tensor subclass, as quantization libraries use: it looks like a float, and is none."""


class HoldsASubclass(Rounds, nn.Linear):
    def __init__(self, linear):
        nn.Linear.__init__(self, linear.in_features, linear.out_features)
        self.weight = nn.Parameter(linear.weight.detach().as_subclass(InDisguise))
        self.bias = linear.bias


@pytest.mark.parametrize("kind", [Rounds, HoldsIntegers, HoldsASubclass])
def test_quantized_unembedding_is_used_as_it_is(kind):
    module = micro_model.MicroModel(micro_model.FIRST_LAYER)
    module.unembed = kind(module.unembed)
    model = micro_model.hook_micro(module)
    with torch.no_grad():
        hidden = final_hidden(model, torch.tensor([[2, 0], [1, 0]]))
        metric = logit_difference(model, hidden, torch.tensor([0, 0]), torch.tensor([1, 1]))
    # logits 6.25 and 2.5, and 2.25 and 1.5 (see test_micro_model_by_hand), rounded half to even
    assert metric.tolist() == [6.0 - 2.0, 2.0 - 2.0]


def test_only_the_last_position_is_asked_of_models_that_can():
    calls = []

    class Recorder(micro_model.MicroModel):
        def forward(self, ids, use_cache=True, logits_to_keep=0):
            calls.append((use_cache, logits_to_keep))
            return super().forward(ids)[:, -logits_to_keep:]

    model = micro_model.hook_micro(Recorder(micro_model.FIRST_LAYER))
    assert last_logits(model, torch.tensor([[2, 0]])).tolist() == [[6.25, 2.5, 8.25, -2.0]]
    final_hidden(model, torch.tensor([[2, 0]]))
    assert calls == [(False, 1)] * 2
