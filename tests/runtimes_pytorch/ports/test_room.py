"""Prompts for which a model has no positions."""

from __future__ import annotations

import micro_model
import pytest
import tiny_circuits
import tiny_models
import torch
from quick_recording import record

from circuitcheck.core.errors import ModelError
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.measure import measure
from circuitcheck.runtimes.pytorch.ports.room import require_room, room_of

POSITIONS = 24

LIMITED = {
    # name: (the setting that counts positions, how many of them a prompt may use)
    "gpt2": ("n_positions", POSITIONS),
    "gpt_bigcode": ("n_positions", POSITIONS),
    "gpt_neo": ("max_position_embeddings", POSITIONS),
    "gptj": ("n_positions", POSITIONS),
    "opt": ("max_position_embeddings", POSITIONS),  # two more rows, which no prompt reaches
    "mpt": ("max_seq_len", POSITIONS),
    "bert": ("max_position_embeddings", POSITIONS),
    "bert-classifier": ("max_position_embeddings", POSITIONS),
    "roberta": ("max_position_embeddings", POSITIONS - 2),  # the first two rows are padding's
    "distilbert": ("max_position_embeddings", POSITIONS),
}

UNLIMITED = ["gpt_neox", "llama", "gemma2", "phi", "falcon", "falcon-alibi", "bloom", "starcoder2", "gpt_oss"]
"""Rotary angles and BLOOM's ALiBi are made for as many positions as there are tokens."""


@pytest.mark.parametrize("name", LIMITED)
def test_the_last_position_is_the_last_that_the_model_itself_runs(name: str) -> None:
    setting, room = LIMITED[name]
    model = tiny_models.tiny_model(name, **{setting: POSITIONS})
    assert room_of(model) == room
    require_room(model, room)
    with torch.no_grad():
        model.module(tiny_models.token_ids(1, room))
        with pytest.raises((IndexError, RuntimeError)):
            model.module(tiny_models.token_ids(1, room + 1))
    message = rf"{name} has {room} positions, and the task has a prompt of {room + 1} tokens: use shorter prompts"
    with pytest.raises(ModelError, match=message):
        require_room(model, room + 1)


@pytest.mark.parametrize("name", UNLIMITED)
def test_positions_that_are_computed_have_no_end(name: str) -> None:
    model = tiny_models.tiny_model(name)
    assert room_of(model) is None
    require_room(model, 200)
    with torch.no_grad():
        model.module(tiny_models.token_ids(1, 200))


def test_a_model_without_a_config_has_no_limit_that_is_known() -> None:
    assert room_of(micro_model.one_layer()) is None


@pytest.mark.parametrize("name", ["gpt2", "mpt"])
def test_recording_and_measuring_say_so_before_they_run_anything(name: str) -> None:
    long = tiny_models.tiny_model(name)
    task = tiny_circuits.solvable_task(long, prompts=12)  # of five and of six tokens
    short = tiny_models.tiny_model(name, **{LIMITED[name][0]: 5})
    refused = rf"{name} has 5 positions, and the task has a prompt of 6 tokens"
    with pytest.raises(ModelError, match=refused):
        record(short, task)
    baseline = record(long, task, MeasurementSpec(draws=100))
    with pytest.raises(ModelError, match=refused):
        measure(short, baseline)
