"""Metrics: what their names mean, what a function may be, and the values of those that are read from logits."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import metric_functions
import micro_model
import pytest
import tiny_models
import torch
from torch import nn

from circuitcheck.core import metric as metric_module
from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.metric import LOG_PROBABILITY, LOGIT_DIFFERENCE, Metric, as_metric, metric_from_settings
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.runtimes.pytorch import forward
from circuitcheck.runtimes.pytorch.forward import (
    final_hidden,
    last_logits,
    log_probability,
    logit_difference,
    metric_of,
)
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.load import hook_module

IDS = tiny_models.token_ids(3, 6)
ANSWER, FOIL = torch.tensor([4, 5, 6]), torch.tensor([7, 8, 9])
# A sum of 32 products and one of 50 exponentials in float32, rounded in another order; logits reach about 10.
ROUNDING = 1e-5

TRANSFORMED = ["gpt_neox", "llama", "gemma2", "cohere", "granite", "opt", "phi"]


def measured_by(model: HookedModel, metric: Metric) -> torch.Tensor:
    with torch.no_grad():
        return metric_of(replace(model, quantity=metric), IDS, ANSWER, FOIL)


def own_logits(model: HookedModel) -> torch.Tensor:
    with torch.no_grad():
        return last_logits(model, IDS)


@pytest.mark.parametrize("name", TRANSFORMED)
def test_logit_difference_is_that_of_the_models_own_logits(name):
    model = tiny_models.tiny_model(name)
    logits, number = own_logits(model), torch.arange(3)
    expected = logits[number, ANSWER] - logits[number, FOIL]
    torch.testing.assert_close(measured_by(model, LOGIT_DIFFERENCE), expected, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("chunk", [1, 7 * 32, 2**22])
@pytest.mark.parametrize("name", TRANSFORMED)
def test_log_probability_is_that_of_the_models_own_logits(name, chunk, monkeypatch):
    """The vocabulary of 50 is read one row, seven rows, and as a whole at a time."""
    monkeypatch.setattr(forward, "CHUNK", chunk)
    model = tiny_models.tiny_model(name)
    expected = own_logits(model).log_softmax(-1)[torch.arange(3), ANSWER]
    torch.testing.assert_close(measured_by(model, LOG_PROBABILITY), expected, atol=ROUNDING, rtol=0)


def test_log_probability_by_hand():
    """The micro model's logits are 6.25, 2.5, 8.25 and -2 (see test_micro_model_by_hand)."""
    model = replace(micro_model.one_layer(), quantity=LOG_PROBABILITY)
    with torch.no_grad():
        found = metric_of(model, torch.tensor([[2, 0]]), torch.tensor([0]), torch.tensor([1]))
    total = math.log(sum(math.exp(logit) for logit in (6.25, 2.5, 8.25, -2.0)))
    assert found.item() == pytest.approx(6.25 - total, rel=1e-6)  # float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_log_probability_of_a_half_precision_model_is_computed_in_float32(dtype):
    module = micro_model.MicroModel(micro_model.FIRST_LAYER).to(dtype)
    model = micro_model.hook_micro(module)
    with torch.no_grad():
        hidden = final_hidden(model, torch.tensor([[2, 0]]))
        found = log_probability(model, hidden, torch.tensor([0]))
    assert found.dtype == torch.float32
    # All of the micro model's numbers fit half precision, so only the sum of exponentials is rounded, in float32.
    total = math.log(sum(math.exp(logit) for logit in (6.25, 2.5, 8.25, -2.0)))
    assert found.item() == pytest.approx(6.25 - total, rel=1e-6)


class Rounds(nn.Module):
    """An unembedding whose kernel is not its weight's linear map."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.linear(hidden).round()


@pytest.mark.parametrize("transform", [None, 2.0])
def test_a_quantized_unembedding_is_used_as_it_is_under_every_metric(transform):
    module = tiny_models.tiny_module("gemma2", tie_word_embeddings=False, final_logit_softcapping=transform)
    module.lm_head = Rounds(module.lm_head)
    model = hook_module(module)
    logits, number = own_logits(model), torch.arange(3)
    expected = logits[number, ANSWER] - logits[number, FOIL]
    torch.testing.assert_close(measured_by(model, LOGIT_DIFFERENCE), expected, atol=ROUNDING, rtol=0)
    expected = logits.log_softmax(-1)[number, ANSWER]
    torch.testing.assert_close(measured_by(model, LOG_PROBABILITY), expected, atol=ROUNDING, rtol=0)


def test_a_function_is_given_the_whole_output():
    model = tiny_models.tiny_model("gemma2")
    seen: dict[str, Any] = {}

    def watch(output, ids, answer, foil):
        seen.update(shape=tuple(output.logits.shape), ids=ids, answer=answer, foil=foil)
        return metric_functions.last_difference(output, ids, answer, foil).double()

    found = measured_by(model, as_metric(watch))
    assert seen["shape"] == (3, 6, tiny_models.VOCABULARY)
    assert (seen["ids"] is IDS, seen["answer"] is ANSWER, seen["foil"] is FOIL) == (True, True, True)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, measured_by(model, LOGIT_DIFFERENCE), atol=ROUNDING, rtol=0)


WRONG = {
    "one_number": r"returned torch.float32 \[\], but must return one float a prompt, \[3\]",
    "whole_numbers": r"returned torch.int64 \[3\], but",
    "no_tensor": "returned list, but",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_function_returns_is_checked(name):
    with pytest.raises(ConfigurationError, match=f"metric metric_functions:{name} {WRONG[name]}"):
        measured_by(tiny_models.tiny_model(), metric_from_settings(f"metric_functions:{name}"))


def test_functions_are_found_by_name_and_named_by_where_they_are():
    found = metric_from_settings("metric_functions:masked_difference")
    assert found == as_metric(metric_functions.masked_difference)
    assert found.function is metric_functions.masked_difference
    assert as_metric(found) is found
    assert as_metric("log_probability") == LOG_PROBABILITY


@pytest.mark.parametrize("name", ["metric_functions:last_difference", "no_such_module:f", "perplexity"])
def test_a_name_from_a_file_is_compared_and_never_imported(name, monkeypatch):
    monkeypatch.setattr(metric_module, "import_module", lambda path: pytest.fail(f"{path} was imported"))
    assert as_metric("logit_difference") == LOGIT_DIFFERENCE
    with pytest.raises(ConfigurationError, match=r"never imported.* name it in your settings, or pass the function"):
        as_metric(name)


BAD_NAMES = {
    "perplexity": "none of logit_difference, log_probability, and no package.module:function",
    "no_such_module:f": r"module no_such_module cannot be imported \(No module named 'no_such_module'\)",
    "metric_functions:no_such": "no_such in module metric_functions does not exist",
    "metric_functions:not_a_function": "not_a_function in module metric_functions is not a function",
    "metric_functions:f.<locals>.g": "f.<locals>.g in module metric_functions does not exist.*pass the function itself",
}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_without_a_metric_are_refused(name):
    with pytest.raises(ConfigurationError, match=BAD_NAMES[name]):
        metric_from_settings(name)


@pytest.mark.parametrize("function", [partial(metric_functions.last_difference), 3])
def test_what_has_no_name_is_refused(function):
    with pytest.raises(ConfigurationError, match="has no name that a baseline could record"):
        as_metric(function)


def test_a_model_without_an_unembedding_needs_a_function():
    model = tiny_models.tiny_model("bert-classifier")
    with pytest.raises(ConfigurationError, match="bert-classifier has no unembedding, so logit_difference cannot be"):
        measured_by(model, LOGIT_DIFFERENCE)


def test_a_model_keeps_the_function_that_it_was_hooked_with():
    def local(output, ids, answer, foil):
        return metric_functions.last_difference(output, ids, answer, foil)

    model = hook_module(tiny_models.tiny_module("gpt_neox"), metric=local)
    assert model.measured_by(model.quantity.name).quantity.function is local
    assert model.measured_by("log_probability").quantity == LOG_PROBABILITY
    with pytest.raises(ConfigurationError, match="pass the function itself: hook_module"):
        tiny_models.tiny_model().measured_by(model.quantity.name)


NAMES = [
    ("log_probability", True),
    ("metrics:f", True),
    ("my.package.metrics:Class.method", True),
    ("tests.test_x:test.<locals>.f", True),
    ("tests.test_x:<lambda>", True),
    ("_m1:_f2", True),
    ("perplexity", False),
    ("metrics.f", False),
    ("metrics:", False),
    (":f", False),
    ("metrics:f:g", False),
    ("1metrics:f", False),
    ("metrics..more:f", False),
    ("metrics:f.", False),
    ("metrics:f()", False),
    ("my-metrics:f", False),
    ("metrics:f\n", False),
    ("", False),
]


@pytest.mark.parametrize(("name", "known"), NAMES)
def test_names_that_a_spec_takes(name, known):
    if known:
        assert MeasurementSpec(metric=name).metric == name
    else:
        with pytest.raises(ConfigurationError, match=r"metric is .*, but must be logit_difference, log_prob"):
            MeasurementSpec(metric=name)


@pytest.mark.parametrize("field", ["positions", "ablate_at"])
def test_a_function_has_no_answer_position(field):
    with pytest.raises(ConfigurationError, match="answer position is not known to be the last one"):
        MeasurementSpec(metric="metrics:f", **{field: "answer"})


def test_logit_difference_reads_two_rows_of_the_unembedding(monkeypatch):
    """No product with a whole vocabulary where the metric does not need one."""
    model = tiny_models.tiny_model("gemma2")
    with torch.no_grad():
        hidden = final_hidden(model, IDS)
        model.module.get_output_embeddings().register_forward_pre_hook(lambda *_: pytest.fail("it ran whole"))
        monkeypatch.setattr(torch.Tensor, "__matmul__", None)  # a product would raise
        assert logit_difference(model, hidden, ANSWER, FOIL).shape == (3,)
