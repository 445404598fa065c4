"""What cannot be loaded is refused by name, with the way out, and nothing in it is run."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import pickle
import re

import huggingface_hub
import model_directories
import pytest
import torch
from safetensors.torch import load_file

from circuitcheck.core.errors import CircuitcheckError, ConfigurationError, ModelError
from circuitcheck.runtimes.pytorch.loading.load import load_model, model_name, resolve_directory


def refusal(source, **options) -> str:
    with pytest.raises(ModelError) as refused:
        load_model(source, **options)
    return str(refused.value)


@pytest.fixture
def directory(tmp_path):
    return model_directories.save_tiny(tmp_path / "tiny")


def spoil_weights(directory, change) -> str:
    model_directories.change_weights(directory, change)
    return refusal(directory)


# --- no directory ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source", ["/no/such/directory", "./missing", "../missing", "~/missing", "one/two/three", "C:\\missing"]
)
def test_a_path_that_does_not_exist_is_never_taken_for_a_hub_id(source, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", forbidden)
    message = refusal(source, download=True)
    assert message == f"model directory {source!r} does not exist."


@pytest.mark.parametrize("source", ["models/mine", "EleutherAI/pythia-70m"])
def test_the_hub_is_not_asked_unless_that_is_said(source, monkeypatch, tmp_path):
    """A mistyped path looks like a hub id."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", forbidden)
    assert refusal(source) == (
        f"model directory {source!r} does not exist. Correct the path or, if it is a hub id, allow the hub: "
        "--circuit-download, or load_model(..., download=True) in Python."
    )


def forbidden(*_, **__):
    raise AssertionError("the hub must not be asked")


def test_a_missing_directory_is_named():
    assert refusal("/no/such/directory") == "model directory '/no/such/directory' does not exist."


def test_a_file_is_refused(directory):
    message = refusal(directory / "config.json")
    assert re.fullmatch(r"model '.*config\.json' is a file; give the directory that holds .*", message)


def test_a_name_that_is_no_hub_id_is_refused():
    for name in ("no hub id!", "gpt2"):
        assert refusal(name, download=True) == f"model {name!r} is neither a directory nor a hub id (owner/name)."


@pytest.fixture
def empty_hub_cache(monkeypatch, tmp_path):
    """The hub client read its environment when it was imported."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def test_a_hub_id_offline_is_refused_with_the_way_out(monkeypatch, empty_hub_cache):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = refusal("some-owner/some-model", download=True)
    assert "'some-owner/some-model' is no local directory, and could not be fetched from the hub" in message
    assert "Give a directory, or download the model where there is a network" in message


@pytest.mark.parametrize("error", [ConnectionError, TimeoutError, OSError, PermissionError])
def test_whatever_the_network_does_is_a_model_error(error, monkeypatch):
    def fail(*_, **__):
        raise error("cable cut")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    assert f"could not be fetched from the hub ({error.__name__})" in refusal("some-owner/some-model", download=True)


def test_pickles_and_code_are_not_even_downloaded(monkeypatch, directory):
    asked = []

    def download(source, allow_patterns):
        asked.append(source)
        files = ["model.safetensors", "config.json", "tokenizer.json", "merges.txt", "model.safetensors.index.json"]
        refused = ["pytorch_model.bin", "model.pt", "modeling_own.py", "weights.pkl", "flax_model.msgpack"]
        wanted = [file for file in files + refused if any(fnmatch.fnmatch(file, part) for part in allow_patterns)]
        assert wanted == files
        return str(directory)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_model("some-owner/some-model", download=True).name == "some-owner/some-model"
    assert asked == ["some-owner/some-model"]


# --- everything that is loaded is fingerprinted, and nothing outside the directory is loaded --------------------------


def sharded_elsewhere(directory, name: str) -> None:
    """Moves the weights to where the index says that they are."""
    target = directory / name
    target.parent.mkdir(parents=True, exist_ok=True)
    weights = directory / "model.safetensors"
    weight_map = dict.fromkeys(load_file(weights), name)
    weights.replace(target)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (directory / "bait.safetensors").write_bytes(b"fingerprinted, and never loaded")


@pytest.mark.parametrize("name", ["../other/x.safetensors", "/absolute", "shards/x.safetensors", "shard.bin"])
def test_shards_that_lie_elsewhere_are_refused(directory, name):
    name = str(directory.parent / "elsewhere.safetensors") if name == "/absolute" else name
    sharded_elsewhere(directory, name)
    assert refusal(directory) == (
        f"model directory {directory}: model.safetensors.index.json names weights that are no .safetensors files "
        f"directly in it: {name!r}. Nothing else is loaded; put all shards beside their index."
    )


def test_shards_beside_their_index_are_loaded(directory):
    before = load_model(directory).fingerprints["weights"]
    sharded_elsewhere(directory, "shard-1.safetensors")
    (directory / "bait.safetensors").unlink()
    assert load_model(directory).fingerprints["weights"] == before


@pytest.mark.parametrize(
    ("key", "value"),
    [("transformers_weights", "bait.safetensors"), ("configuration_files", ["config.4.0.0.json"])],
)
def test_a_config_that_names_other_files_is_refused(directory, key, value):
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    assert f"its config.json names {key} (other files of " in refusal(directory)


def test_an_adapter_is_refused(directory):
    (directory / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "../other"}))
    assert "holds an adapter (adapter_config.json), whose base model lies elsewhere. Merge them" in refusal(directory)


# --- an incomplete directory -----------------------------------------------------------------------------------------


def test_a_directory_without_a_config_is_refused(directory):
    (directory / "config.json").unlink()
    assert refusal(directory) == (
        f"model directory {directory} has no config.json; give a directory saved with save_pretrained."
    )


def test_a_directory_without_weights_is_refused(directory):
    (directory / "model.safetensors").unlink()
    assert f"model directory {directory} has no weights; save it with save_pretrained as safetensors" in refusal(
        directory
    )


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model_type": "no-such-type"}'])
def test_a_config_that_says_nothing_is_refused(directory, content):
    (directory / "config.json").write_text(content)
    assert f"model in {directory} cannot be loaded" in refusal(directory)


def test_a_missing_shard_is_refused(directory):
    (directory / "model.safetensors").rename(directory / "model-00001-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": {"embed_out.weight": "model-00002-of-00002.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "directly in it: 'model-00002-of-00002.safetensors'." in refusal(directory)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights_are_refused(directory, keep):
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    assert f"model in {directory} cannot be loaded" in refusal(directory)


# --- weights that do not fit the config ------------------------------------------------------------------------------

DENSE = "gpt_neox.layers.1.attention.dense.weight"


def test_missing_keys_are_named(directory):
    message = spoil_weights(directory, lambda tensors: tensors.pop(DENSE))
    assert message == f"model in {directory} does not fit its config.json: missing keys: {DENSE}"


def test_unexpected_keys_are_named(directory):
    message = spoil_weights(directory, lambda tensors: tensors.update({"head.extra": torch.zeros(2)}))
    assert message == f"model in {directory} does not fit its config.json: unexpected keys: head.extra"


def test_mismatched_shapes_are_refused_by_name(directory):
    message = spoil_weights(directory, lambda tensors: tensors.update({DENSE: torch.zeros(32, 16)}))
    assert message == (
        f"model in {directory} does not fit its config.json: mismatched keys: {DENSE} ([32, 16] instead of [32, 32])"
    )


def test_all_kinds_of_wrong_keys_are_named_at_once_and_long_lists_are_cut(directory):
    def change(tensors):
        for key in [key for key in tensors if "layers.1" in key]:
            del tensors[key]
        tensors["head.extra"] = torch.zeros(2)

    message = spoil_weights(directory, change)
    assert re.search(r"missing keys: (gpt_neox\.layers\.1\.\S+, ){4}gpt_neox\.layers\.1\.\S+ and 7 more", message)
    assert "unexpected keys: head.extra" in message


# --- nothing is unpickled, no remote code is run ---------------------------------------------------------------------


def test_the_trap_below_works(tmp_path):
    model_directories.plant_pickle(tmp_path, tmp_path / "trap")
    pickle.loads((tmp_path / "pytorch_model.bin").read_bytes())
    assert (tmp_path / "trap").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.pth"])
def test_only_pickled_weights_are_refused_and_not_unpickled(directory, tmp_path, name):
    (directory / "model.safetensors").unlink()
    model_directories.plant_pickle(directory, tmp_path / "trap", name)
    message = refusal(directory)
    assert f"only pickled weights ({name}), and nothing is ever unpickled" in message
    assert "save it with save_pretrained as safetensors" in message
    assert not (tmp_path / "trap").exists()


def test_pickled_weights_beside_sound_ones_are_left_alone(directory, tmp_path):
    model_directories.plant_pickle(directory, tmp_path / "trap")
    load_model(directory)
    assert not (tmp_path / "trap").exists()


def test_harmless_pickled_weights_are_not_unpickled_either(directory):
    """There is a safetensors file, but not of the name that holds a model, and a pickled one that would do."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").rename(directory / "adapter.safetensors")
    torch.save(tensors, directory / "pytorch_model.bin")
    assert f"model in {directory} cannot be loaded" in refusal(directory)


def test_pickled_weights_are_no_way_out_of_truncated_ones(directory, tmp_path):
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    model_directories.plant_pickle(directory, tmp_path / "trap")
    assert "cannot be loaded" in refusal(directory)
    assert not (tmp_path / "trap").exists()


@pytest.fixture
def remote_code(directory, tmp_path):
    """Modules that create a file when they are imported."""
    trap = tmp_path / "trap"
    for name in ("modeling_own", "configuration_own", "tokenization_own"):
        (directory / f"{name}.py").write_text(f"from pathlib import Path\nPath({str(trap)!r}).touch()\n")
    return trap


AUTO_MAP = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}


def test_remote_code_of_an_unknown_type_is_refused_and_not_run(directory, remote_code):
    model_directories.change_config(directory, auto_map=AUTO_MAP, model_type="own")
    assert f"model in {directory} cannot be loaded" in refusal(directory)
    assert not remote_code.exists()


def test_remote_code_of_a_known_type_is_not_run(directory, remote_code):
    model_directories.change_config(directory, auto_map=AUTO_MAP)
    with contextlib.suppress(ModelError):  # to refuse it is as good
        assert type(load_model(directory).module).__module__.startswith("transformers.")
    assert not remote_code.exists()


def test_remote_code_of_a_tokenizer_is_not_run(directory, remote_code):
    model_directories.save_word_tokenizer(directory)
    file = directory / "tokenizer_config.json"
    settings = json.loads(file.read_text()) | {
        "auto_map": {"AutoTokenizer": ["tokenization_own.Own", "tokenization_own.Own"]},
        "tokenizer_class": "Own",
    }
    file.write_text(json.dumps(settings))
    with contextlib.suppress(ModelError):  # to refuse it is as good
        load_model(directory)
    assert not remote_code.exists()


# --- the rest --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["{", '{"model": {"type": "NoSuchModel"}}'])
def test_a_broken_tokenizer_is_refused(directory, content):
    model_directories.save_word_tokenizer(directory)
    (directory / "tokenizer.json").write_text(content)
    assert f"the tokenizer in {directory} cannot be loaded" in refusal(directory)


def test_a_directory_without_a_tokenizer_has_none(directory):
    model = load_model(directory)
    assert model.tokenizer is None
    assert model.fingerprints["tokenizer"] == "none"


@pytest.mark.parametrize("precision", ["int3", "F16", "", "float16"])
def test_an_unknown_precision_is_refused_before_anything_is_loaded(precision):
    with pytest.raises(
        ConfigurationError, match=rf"unknown precision {precision!r}.*f32, f16, bf16, int8-sim, int8-rtn, .*saved"
    ):
        load_model("/no/such/directory", precision)


def test_every_refusal_can_be_caught_as_one(directory):
    assert issubclass(ModelError, CircuitcheckError)
    assert issubclass(ConfigurationError, CircuitcheckError)


def test_a_model_is_called_by_the_last_part_of_its_path_or_hub_id(directory, monkeypatch):
    assert model_name(directory) == "tiny"
    assert model_name(f"{directory}/") == "tiny"
    assert model_name("EleutherAI/pythia-70m") == "pythia-70m"
    assert model_name("embedded") == "embedded"
    monkeypatch.chdir(directory)
    assert model_name(".") == "tiny"


def test_the_embedded_model_is_found_in_the_package():
    assert (resolve_directory("embedded") / "model.safetensors").is_file()
