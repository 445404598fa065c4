"""Models whose weights stay in their files are measured as those in memory are."""

from __future__ import annotations

import errno
import json
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_circuits
import tiny_models
import torch
from patches import ablated_metric, units_of
from quick_recording import record

from circuitcheck.core.errors import ConfigurationError, MemoryBudgetError, ModelError
from circuitcheck.core.runtime import Work
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.runtimes.pytorch.engine.packing import is_checkpointed, record_bytes, row_bytes, weights_bytes
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading import device_map as device_maps
from circuitcheck.runtimes.pytorch.loading.load import load_model
from circuitcheck.runtimes.pytorch.offload import is_offloaded, resident, resident_bytes

pytest.importorskip("accelerate")

NAMES = ["gpt_neox", "gpt2", "mixtral"]
"""A plain one; one whose unembedding is its embedding; and one whose experts files hold in another form."""


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    for name in NAMES:
        tiny_models.tiny_module(name).save_pretrained(folder / name)
    return {name: folder / name for name in NAMES}


@pytest.fixture
def neox(directories: dict[str, Path]) -> HookedModel:
    return load_model(directories["gpt_neox"], device_map="disk")


@pytest.mark.parametrize(("name", "at"), [("gpt_neox", "answer"), ("gpt2", "all"), ("mixtral", "all")])
def test_a_baseline_is_that_of_the_model_in_memory(
    directories: dict[str, Path], tmp_path: Path, name: str, at: Any
) -> None:
    here = load_model(directories[name])
    away = load_model(directories[name], device_map="disk", offload=tmp_path / "weights")
    assert is_offloaded(away.module)
    assert not is_offloaded(here.module)
    task, spec = tiny_circuits.solvable_task(here), MeasurementSpec(draws=100, ablate_at=at)
    # Sources of noise are passes as all others are.
    expected, found = (record(model, task, spec, sources=()) for model in (here, away))
    for kind, ablated in expected.ablated.items():
        np.testing.assert_allclose(found.ablated[kind], ablated, atol=1e-5, rtol=0)
    for what in ("z", "gradient"):
        for one, other in zip(getattr(found, what).groups, getattr(expected, what).groups, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5, rtol=0)
    for one, other in zip(found.reading.maps, expected.reading.maps, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=0)
    assert found.fingerprints == expected.fingerprints
    (note,) = (note for note in found.notes if note.startswith("Weights lie in files"))
    assert "What plain rounding does to this model was not measured" in note


def test_what_had_to_be_written_anew_is_gone_with_the_model(directories: dict[str, Path], tmp_path: Path) -> None:
    model = load_model(directories["mixtral"], device_map="disk", offload=tmp_path / "weights")
    assert list((tmp_path / "weights").glob("circuitcheck-*/*experts*"))
    del model
    import gc

    gc.collect()
    assert list((tmp_path / "weights").iterdir()) == []


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each weight was fetched from its file."""
    from accelerate.utils.offload import OffloadedWeightsLoader

    counts: Counter[str] = Counter()
    own = OffloadedWeightsLoader.__getitem__

    def count(self: Any, key: str) -> Any:
        counts[key] += 1
        return own(self, key)

    monkeypatch.setattr(OffloadedWeightsLoader, "__getitem__", count)
    return counts


def test_a_wave_of_rows_fetches_each_layer_once(neox: HookedModel, fetched: Counter[str]) -> None:
    """However many blocks it is made of."""
    key = "gpt_neox.layers.1.mlp.dense_h_to_4h.weight"
    task = tiny_circuits.solvable_task(neox)
    one_length = [number for number in range(8) if number % 2 == 0]
    whole = weights_bytes(neox) + 40 * record_bytes(neox, 5)
    expected = ablated_metric(neox, task, one_length, "zero")  # and the replay of this length is proven
    counts = []
    for memory in (None, whole + 3 * row_bytes(neox, 5)):
        fetched.clear()
        found = ablated_metric(neox, task, one_length, "zero", memory=memory)
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
        counts.append(fetched[key])
    # The clean pass and the wave; not one for each of the blocks of a row or two.
    assert counts[0] == 2
    assert counts[1] < len(units_of(neox))


def test_the_budget_bounds_weights_too(neox: HookedModel) -> None:
    task = tiny_circuits.solvable_task(neox)
    needed = weights_bytes(neox) + record_bytes(neox, 6) + row_bytes(neox, 6)
    with pytest.raises(MemoryBudgetError, match=f"needs about .* bytes, {weights_bytes(neox):,} of them for weights"):
        ablated_metric(neox, task, range(8), "zero", memory=needed - 1)
    assert np.isfinite(ablated_metric(neox, task, range(8), "zero", memory=needed)).all()


def test_as_much_as_the_budget_allows_stays_in_memory(directories: dict[str, Path]) -> None:
    whole = resident_bytes(load_model(directories["gpt_neox"]).module)
    some = load_model(directories["gpt_neox"], device_map="auto", memory=whole)
    everything = load_model(directories["gpt_neox"], device_map="auto", memory=8 * whole)
    assert is_offloaded(some.module)
    assert 0 <= resident_bytes(some.module) <= device_maps.WEIGHTS_SHARE * whole
    assert not is_offloaded(everything.module)


def test_an_interrupted_pass_puts_weights_away(neox: HookedModel) -> None:
    layer = neox.module.get_submodule(neox.structure.layers[0].path)

    def interrupted() -> None:
        with resident(layer):
            assert not any(parameter.is_meta for parameter in layer.parameters())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(parameter.is_meta for parameter in layer.parameters())
    assert is_offloaded(layer)


@pytest.mark.parametrize("name", ["gpt_neox", "llama", "opt"])
def test_gradients_that_are_checkpointed_are_the_same(name: str) -> None:
    model = tiny_models.tiny_model(name, num_hidden_layers=4)
    prompts = tiny_circuits.solvable_task(model).prompts()
    tight = 2 * row_bytes(model, 6)
    assert is_checkpointed(model, 6, tight)
    assert not is_checkpointed(model, 6, None)
    metric, expected = model.gradient(prompts, "head")
    again, found = model.gradient(prompts, "head", work=Work(tight))
    # One prompt a batch instead of all: sums in another order.
    np.testing.assert_allclose(again, metric, atol=1e-5, rtol=1e-5)
    for one, other in zip(found.groups, expected.groups, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-4)


def written(file: Path, content: Any) -> str:
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(file)


def test_a_device_map_says_what_lies_where(directories: dict[str, Path], tmp_path: Path) -> None:
    mapping = {"gpt_neox.embed_in": "cpu", "gpt_neox.layers.0": "cpu", "gpt_neox.layers.1": "disk"}
    mapping |= {"gpt_neox.final_layer_norm": "cpu", "lm_head": "cpu", "gpt_neox.rotary_emb": "cpu"}
    model = load_model(directories["gpt_neox"], device_map=written(tmp_path / "map.json", mapping))
    assert not is_offloaded(model.module.get_submodule("gpt_neox.layers.0"))
    assert is_offloaded(model.module.get_submodule("gpt_neox.layers.1"))
    task = tiny_circuits.solvable_task(model)
    found = ablated_metric(model, task, range(8), "zero")
    expected = ablated_metric(load_model(directories["gpt_neox"]), task, range(8), "zero")
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"gpt_neox.layers.9": "cpu"}, r"the model has no gpt_neox\.layers\.9"),
        ({"": "quantum:7"}, "device 'quantum:7' cannot be used here"),
        ({"gpt_neox.layers.0": "disk"}, "does not say where gpt_neox.embed_in.weight"),
        ({"": "disk"}, "everything is on disk"),
        ({"": 1.5}, "must be a table of modules and devices"),
        ([], "must be a table"),
        ("{", "cannot be read"),
    ],
)
def test_device_maps_that_cannot_be_used(
    directories: dict[str, Path], tmp_path: Path, content: Any, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_model(directories["gpt_neox"], device_map=written(tmp_path / "map.json", content))


def test_no_such_device_map(directories: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="neither auto nor disk, and no JSON file"):
        load_model(directories["gpt_neox"], device_map=str(tmp_path / "none.json"))


def test_an_offload_folder_that_cannot_be_written_to(directories: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"offload folder .*file.* cannot be written to"):
        load_model(directories["mixtral"], device_map="disk", offload=tmp_path / "file" / "weights")


def test_an_offload_folder_that_is_full(
    directories: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(ModelError, match=r"offload folder .*No space left on device.*--circuit-offload"):
        load_model(directories["mixtral"], device_map="disk", offload=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_floats_stay_in_files(directories: dict[str, Path]) -> None:
    with pytest.raises(ConfigurationError, match="int8-sim: only float weights"):
        load_model(directories["gpt_neox"], "int8-sim", device_map="disk")


def test_half_precision_is_made_as_it_is_fetched(directories: dict[str, Path]) -> None:
    here = load_model(directories["gpt_neox"], "bf16")
    away = load_model(directories["gpt_neox"], "bf16", device_map="disk")
    task = tiny_circuits.solvable_task(here)
    torch.testing.assert_close(
        torch.from_numpy(away.metric(task.prompts())), torch.from_numpy(here.metric(task.prompts())), rtol=0, atol=0
    )


def test_a_backward_pass_keeps_the_weights_of_one_layer_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.utils.offload import OffloadedWeightsLoader

    tiny_models.tiny_module("gpt_neox", num_hidden_layers=6).save_pretrained(tmp_path)
    model = load_model(tmp_path, device_map="disk")
    prompts = tiny_circuits.solvable_task(model).prompts()
    own, alive, most = OffloadedWeightsLoader.__getitem__, list[tuple[str, weakref.ref[Any]]](), 0

    def fetch(self: Any, key: str) -> Any:
        nonlocal most
        tensor = own(self, key)
        alive.append((key.rpartition("layers.")[2].partition(".")[0], weakref.ref(tensor.untyped_storage())))
        most = max(most, len({layer for layer, storage in alive if layer.isdigit() and storage() is not None}))
        return tensor

    monkeypatch.setattr(OffloadedWeightsLoader, "__getitem__", fetch)
    model.gradient(prompts, "head")
    assert 1 <= most <= 2
    assert all(parameter.requires_grad for parameter in model.module.parameters())
