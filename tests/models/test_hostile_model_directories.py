"""A stranger's model directory takes no more time, memory or words than its files do."""

from __future__ import annotations

import json
import os
import re

import model_directories
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from circuitcheck.core.errors import ModelError
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.measure import measure
from circuitcheck.gate.record import record_reference
from circuitcheck.runtimes.pytorch.loading.load import load_model


@pytest.fixture
def directory(tmp_path):
    return model_directories.save_tiny(tmp_path / "tiny")


def refusal(directory) -> str:
    with pytest.raises(ModelError) as refused:
        load_model(directory)
    assert len(str(refused.value)) < 1000
    return str(refused.value)


@pytest.mark.parametrize("name", ["gpt_neox", "gpt2", "mpt", "gpt_neo", "distilbert"])
@pytest.mark.parametrize("layers", [10**7, 10**30])
def test_more_layers_than_tensors_are_refused_before_they_are_made(tmp_path, name, layers):
    directory = model_directories.save_tiny(tmp_path / name, name)
    config = json.loads((directory / "config.json").read_text())
    key = next(key for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") if key in config)
    model_directories.change_config(directory, **{key: layers})
    message = refusal(directory)
    assert re.search(
        rf"does not fit its configuration: {key} is (10000000|a number of 100 bits), and its files hold", message
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [("vocab_size", 10**9), ("intermediate_size", 10**8), ("hidden_size", 2**24), ("vocab_size", 10**30)],
)
def test_far_more_numbers_than_are_stored_are_refused_before_they_are_allocated(directory, key, value, monkeypatch):
    model_directories.change_config(directory, **{key: value})
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    assert "does not fit its configuration" in refusal(directory) or "cannot be loaded" in refusal(directory)


def test_tables_of_too_many_positions_are_refused_before_they_are_allocated(tmp_path, monkeypatch):
    """GPT-Neo keeps a mask of all pairs of positions."""
    directory = model_directories.save_tiny(tmp_path / "neo", "gpt_neo")
    model_directories.change_config(directory, max_position_embeddings=10**6)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    assert "bytes of tables" in refusal(directory) or "does not make a model" in refusal(directory)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "model.safetensors", "generation_config.json", "merges.txt"]
)
def test_devices_and_pipes_are_not_read(directory, name):
    file = directory / name
    file.unlink(missing_ok=True)
    file.symlink_to("/dev/zero")
    assert f"{name}" in refusal(directory)
    file.unlink()
    os.mkfifo(file)
    assert f"{name}" in refusal(directory)


def test_a_text_without_end_is_not_read(directory):
    with (directory / "config.json").open("r+b") as stream:
        stream.truncate(10**11)
    assert "config.json cannot be read: it has 100000000000 bytes" in refusal(directory)


@pytest.mark.parametrize("number", [2**24 + 1, 2**31, 2**32 - 1])
def test_a_token_of_a_number_without_end_is_refused_before_all_below_it_are_counted(directory, number):
    """tokenizers walked for minutes, and kept 8 GB of numbers that no token has."""
    tokenizer = Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))
    content = json.loads(tokenizer.to_str())
    content["model"]["vocab"]["b"] = number
    (directory / "tokenizer.json").write_text(json.dumps(content))
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    assert f"numbers a token {number:,}, and 16,777,216 is the most that is read" in refusal(directory)


@pytest.mark.parametrize(
    "text",
    ['{"a": 1, "a": 2}', '{"a": {"b": 1, "b": 1}}', "[" * 10**5, '{"a": "\\ud800"}', '"\xff"', '{"a": ' + "1" * 9999],
)
@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer_config.json", "model.safetensors.index.json"]
)
def test_json_that_is_none_or_says_two_things_is_refused(directory, name, text):
    (directory / name).write_bytes(text.encode("latin-1"))
    assert re.search(
        rf"(model|the tokenizer) in {re.escape(str(directory))} cannot be loaded: {name}: ", refusal(directory)
    )


def test_infinity_may_stand_in_a_configuration(directory):
    """Mamba's step limits are written so."""
    model_directories.change_config(directory, time_step_limit=[0.0, float("inf")])
    load_model(directory)


def test_a_prompt_longer_than_the_positions_is_refused_before_the_batch_size_is_probed(tmp_path):
    """All prompts are as long, so the very first pass would fail in the model's own way."""
    import tiny_circuits
    import tiny_models

    long = tiny_models.tiny_model("gpt2")
    task = tiny_circuits.solvable_task(long, prompts=12)
    task = type(task)(task.name, tuple(pair for pair in task.pairs if len(pair.clean) == task.longest))
    baseline = record_reference(long, task, MeasurementSpec(draws=100, minimum_clusters=1))
    directory = tmp_path / "short"
    tiny_models.tiny_module("gpt2", n_positions=5).save_pretrained(directory)
    with pytest.raises(ModelError, match=r"has 5 positions, and the task has a prompt of 6 tokens"):
        measure(load_model(directory, "f16"), baseline)


@pytest.mark.parametrize("precision", ["f32", "f16", "int8-rtn", "int8-sim"])
def test_a_default_type_of_float64_changes_nothing(directory, precision):
    import tiny_circuits

    def measured():
        reference = load_model(directory)
        task = tiny_circuits.solvable_task(reference, prompts=12)
        baseline = record_reference(reference, task, MeasurementSpec(draws=100))
        return repr(measure(load_model(directory, precision), baseline))

    usual = measured()
    torch.set_default_dtype(torch.float64)
    try:
        assert measured() == usual
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_configuration_that_nothing_can_be_computed_with_is_a_model_error(tmp_path):
    """A negative number of heads fits every shape."""
    import tiny_circuits
    import tiny_models

    directory = model_directories.save_tiny(tmp_path / "gpt2", "gpt2")
    task = tiny_circuits.solvable_task(tiny_models.tiny_model("gpt2"), prompts=12)
    model_directories.change_config(directory, n_head=-1)
    with pytest.raises(ModelError, match=r"gpt2 cannot be run on token ids of the shape \[\d+, \d\], by its own code"):
        load_model(directory).metric(task.prompts())


def test_positions_without_end_are_refused_before_a_pass_makes_a_table_of_them(tmp_path):
    """MPT's ALiBi is built in every pass, for all positions that its configuration has."""
    directory = model_directories.save_tiny(tmp_path / "mpt", "mpt")
    model_directories.change_config(directory, max_seq_len=10**9)
    assert "does not fit its configuration: max_seq_len is 1000000000" in refusal(directory)
