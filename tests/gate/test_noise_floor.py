"""The noise floor is measured under other settings, and the settings are put back."""

from __future__ import annotations

import importlib

import micro_model
import pytest
import tiny_circuits
import tiny_models
import torch
from quick_recording import record

from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.threads import computing_threads, share_of_threads
from circuitcheck.runtimes.pytorch.variations import other_attention

KEYS = ["drift", "metric_change", "profile_distance", "ranking_change"]


@pytest.fixture
def three_threads():
    usual = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(usual)


def attention_of(model: HookedModel) -> list[str]:
    """The implementation of the model and of every part that has its own configuration."""
    parts = [part.config for part in model.module.modules() if hasattr(part, "config")]
    return [config._attn_implementation for config in parts]


@pytest.mark.parametrize("name", ["gpt_neox", "llama", "gpt2"])
def test_floor_is_small_and_settings_are_restored(three_threads, name):
    model = tiny_models.tiny_model(name)
    # Transformers switches attention only where the class's module is loaded; pytester's in-process runs unload some.
    importlib.import_module(type(model.module).__module__)
    before = attention_of(model)
    baseline = record(model, tiny_circuits.solvable_task(model, 8), MeasurementSpec(part=4))
    assert sorted(baseline.noise_floor) == KEYS
    assert all(value >= 0 for value in baseline.noise_floor.values())
    # Roundings of float32 under another kernel, amplified by two layers: far below any limit, and not nothing.
    assert 0 < baseline.noise_floor["drift"] < 1e-4
    assert max(baseline.noise_floor.values()) < 1e-2
    assert torch.get_num_threads() == 3
    assert attention_of(model) == before == ["eager"] * len(before)


def test_every_source_of_noise_is_tried(three_threads, monkeypatch):
    """Thread counts, attention implementations and batch sizes that the model sees while it is recorded."""
    model = tiny_models.tiny_model()
    task = tiny_circuits.solvable_task(model, 6)
    seen = set()

    def watch(_, arguments, options):
        ids = arguments[0] if arguments else options["input_ids"]
        seen.add((torch.get_num_threads(), model.module.config._attn_implementation, len(ids)))

    measured = HookedModel.metric

    def watched(self, prompts, **options):
        handle = self.module.register_forward_pre_hook(watch, with_kwargs=True)
        try:
            return measured(self, prompts, **options)
        finally:
            handle.remove()

    monkeypatch.setattr(HookedModel, "metric", watched)
    record(model, task)
    # Six prompts of two lengths are two batches of three; as the reference is recorded, and under each variation.
    assert seen == {(3, "eager", 3), (1, "eager", 3), (3, "eager", 1), (3, "sdpa", 3)}


@pytest.mark.parametrize("setting", [computing_threads, other_attention])
def test_settings_are_restored_after_an_error(three_threads, setting):
    model = tiny_models.tiny_model()
    arguments = (1,) if setting is computing_threads else (model,)
    seen = []

    def measure_and_fail():
        with setting(*arguments):
            seen.append((torch.get_num_threads(), model.module.config._attn_implementation))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        measure_and_fail()
    assert seen == [(1, "eager") if setting is computing_threads else (3, "sdpa")]
    assert torch.get_num_threads() == 3
    assert model.module.config._attn_implementation == "eager"


def test_model_without_attention_implementations_has_a_floor_too():
    """Small binary fractions: the micro model computes exactly under every setting."""
    pairs = [PromptPair((2, token), (1, token), 0, 3, f"c{token}") for token in range(4)]
    baseline = record(micro_model.two_layers(), Task("micro", tuple(pairs)))
    assert len(baseline.solved) > 1
    assert baseline.noise_floor == dict.fromkeys(KEYS, 0.0)


@pytest.mark.parametrize(("processes", "share"), [(1, 3), (2, 1), (3, 1), (8, 1)])
def test_processes_share_the_threads(processes, share):
    with computing_threads(3):
        with share_of_threads(processes):
            assert torch.get_num_threads() == share
        assert torch.get_num_threads() == 3
