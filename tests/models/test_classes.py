"""Encoders are loaded as what they were saved from, and everything else as a causal language model."""

from __future__ import annotations

import model_directories
import pytest
import tiny_models
import torch

from circuitcheck.runtimes.pytorch.loading.load import load_model


@pytest.mark.parametrize("name", ["bert", "bert-classifier", "roberta", "distilbert", "gpt_neox", "llama"])
@pytest.mark.parametrize("precision", ["f32", "f16", "saved", "int8-rtn"])
def test_a_directory_is_loaded_as_the_class_it_was_saved_from(tmp_path, name, precision):
    directory = model_directories.save_tiny(tmp_path / "model", name)
    expected = type(tiny_models.tiny_module(name))
    assert type(load_model(directory, precision).module) is expected


def test_an_encoder_computes_what_it_computed(tmp_path):
    directory = model_directories.save_tiny(tmp_path / "model", "bert")
    ids = tiny_models.token_ids(2, 5)
    with torch.no_grad():
        expected = tiny_models.tiny_module("bert")(ids).logits
        assert torch.equal(load_model(directory).module(ids).logits, expected)


@pytest.mark.parametrize("architectures", [None, [], ["NoSuchModel"], ["NoSuchForMaskedLM"], "BertForMaskedLM", [7]])
def test_a_class_that_is_not_there_is_not_asked_for(tmp_path, architectures):
    directory = model_directories.save_tiny(tmp_path / "model", "llama")
    model_directories.change_config(directory, architectures=architectures)
    assert type(load_model(directory).module).__name__ == "LlamaForCausalLM"
