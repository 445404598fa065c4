"""The model that ships with the package: which one it is, and that it solves what the gate asks of it."""

from __future__ import annotations

from itertools import count

import pytest
import torch

from circuitcheck.core.prompts import Task
from circuitcheck.embedded.corpus import build_tokenizer
from circuitcheck.embedded.train import build_model
from circuitcheck.runtimes.pytorch import UNIT_KINDS
from circuitcheck.runtimes.pytorch.forward import last_logits
from circuitcheck.runtimes.pytorch.loading.load import load_model, resolve_directory
from circuitcheck.tasks.named import BUILT_IN, load_task

WEIGHTS = "18697c84d43b0a715550ccce4b822ad2cb2c4d7c99d050523503a0c39eaa24f9"
TOKENIZER = "5c146f4d7c7d61e6f825d86646d5ea528cb462e8cdda5130c3097fe60e72bfd1"
"""The golden baselines are of these: whoever trains anew records them anew."""

PROMPTS = 256


@pytest.fixture(scope="module")
def model():
    return load_model("embedded", device="cpu")


@pytest.fixture(scope="module", params=BUILT_IN)
def held_out(request, model):
    """As many different pairs as asked for, from as many seeds as that takes, the gate's own seed last of all.

    The training text contains none of them (tests/tasks/test_built_in_tasks.py).
    """
    pairs = {}
    for seed in count(1):
        pairs |= dict.fromkeys(load_task(request.param, model.tokenizer, seed=seed).pairs)
        if len(pairs) >= PROMPTS:
            break
    pairs |= dict.fromkeys(load_task(request.param, model.tokenizer).pairs)
    return Task(request.param, tuple(pairs))


def test_fingerprints(model):
    assert model.fingerprints == {"weights": WEIGHTS, "tokenizer": TOKENIZER}


def test_size():
    directory = resolve_directory("embedded")
    assert sum(file.stat().st_size for file in directory.iterdir()) <= 4_000_000
    assert {file.name for file in directory.iterdir()} <= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_shape(model):
    assert model.facts.architecture == {"class": "GPTNeoXForCausalLM", "n_layers": 4, "n_heads": 8, "d_head": 16}
    assert model.module.config.hidden_size == 128
    assert {parameter.dtype for parameter in model.module.parameters()} == {torch.float32}


def test_the_training_script_builds_this_tokenizer_and_this_shape(model):
    tokenizer = build_tokenizer()
    shipped = model.tokenizer.get_vocab()
    assert shipped == tokenizer.get_vocab()
    text = "When Mary and John went to the store, John gave a drink to"
    assert model.tokenizer(text)["input_ids"] == tokenizer.encode(text).ids
    built, loaded = build_model(tokenizer).state_dict(), model.module.state_dict()
    assert {name: tensor.shape for name, tensor in loaded.items()} == {name: part.shape for name, part in built.items()}


@pytest.mark.parametrize("kind", UNIT_KINDS)
def test_its_hooks_are_proven(model, kind):
    for name in BUILT_IN:
        model.prove(load_task(name, model.tokenizer).prompts(), kind)


def test_it_solves_held_out_prompts(model, held_out):
    assert len(held_out.pairs) >= PROMPTS
    metric = model.metric(held_out.prompts())
    assert (metric > 0).mean() >= 0.99
    assert metric.mean() >= 5
    # and turns round where the counterfactual makes the foil the right answer
    turned = -model.metric(held_out.prompts(), counterfactual=True)
    assert (turned > 0).mean() >= 0.99
    assert turned.mean() >= 5


def test_the_answer_is_its_first_choice_among_all_words(model, held_out):
    right = 0
    with torch.no_grad():
        for batch in held_out.prompts().batches():
            first = last_logits(model, torch.from_numpy(batch.clean)).argmax(-1)
            right += int((first.numpy() == batch.answer).sum())
    assert right / len(held_out.pairs) >= 0.99


def test_every_prompt_of_the_gate_is_solved_with_margin(model):
    """The gate counts a prompt whose metric exceeds half a logit; on all of its own it does."""
    for name in BUILT_IN:
        assert model.metric(load_task(name, model.tokenizer).prompts()).min() > 0.5
