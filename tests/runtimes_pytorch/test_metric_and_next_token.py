"""The metric and what comes next, from the same pass: to the last bit what each says alone."""

from __future__ import annotations

from dataclasses import replace

import metric_functions
import numpy as np
import pytest
import tiny_circuits
import tiny_models
import torch

from circuitcheck.core.metric import LOG_PROBABILITY, LOGIT_DIFFERENCE, Metric


def passes_of(model, call):
    count = []
    handle = model.module.register_forward_pre_hook(lambda *_: count.append(1))
    try:
        return call(), len(count)
    finally:
        handle.remove()


@pytest.mark.parametrize("metric", [LOGIT_DIFFERENCE, LOG_PROBABILITY])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["gpt_neox", "llama", "gemma2", "cohere", "opt"])
def test_both_are_what_each_is_alone(name, dtype, metric):
    model = tiny_models.tiny_model(name)
    model = replace(model, module=model.module.to(dtype), quantity=metric)
    prompts = tiny_circuits.solvable_task(tiny_models.tiny_model(name)).prompts()
    tokens = model.next_token(prompts).tokens
    (m, said), passes = passes_of(model, lambda: model.metric_and_next_token(prompts, tokens))
    alone, half = passes_of(model, lambda: model.metric(prompts))
    assert passes == half
    np.testing.assert_array_equal(m, alone)
    expected = model.next_token(prompts, tokens)
    for found, other in zip(vars(said).values(), vars(expected).values(), strict=True):
        np.testing.assert_array_equal(found, other)


def test_a_function_of_the_whole_output_is_measured_apart():
    model = tiny_models.tiny_model("llama").measured_by(Metric("own", metric_functions.last_difference))
    prompts = tiny_circuits.solvable_task(tiny_models.tiny_model("llama")).prompts()
    tokens = model.next_token(prompts).tokens
    m, said = model.metric_and_next_token(prompts, tokens)
    np.testing.assert_array_equal(m, model.metric(prompts))
    np.testing.assert_array_equal(said.likeliest, model.next_token(prompts).likeliest)
