"""Dictionaries mean here what they mean to SAELens and to circuit-tracer.

What both make of some activations is stored; where `CIRCUITCHECK_SAE_LENS` names a Python that has them, it is made
anew and must be the same.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import sae_lens_golden
import torch
from safetensors.numpy import load_file

from circuitcheck.dictionaries.dictionary import Dictionary
from circuitcheck.dictionaries.read import read_dictionaries
from circuitcheck.runtimes.pytorch.ports.latents import Latents

GOLDEN = Path(__file__).with_name("golden")
CASES = sorted(folder.name for folder in GOLDEN.iterdir() if folder.name != "circuit_tracer")

FLOAT = {"rtol": 1e-5, "atol": 2e-6}
"""Sums of a dozen float32 products in another order, biases folded first: 1e-6 is typical."""


def reconstructed(dictionary: Dictionary, x: torch.Tensor) -> np.ndarray:
    """What the latents write together, as the sum of squares against 0 and against each unit vector tells."""
    latents = Latents.of(dictionary, torch.device("cpu"))
    values = latents.read(x, slice(None))
    _, scale, shift = latents._normalized(x)
    output = latents.written(values, slice(None)) + torch.tensor(dictionary.decoder_bias) * scale + shift
    if dictionary.skip is not None:
        output = output + x @ torch.tensor(dictionary.skip).T
    return output.numpy()


def assert_same(dictionary: Dictionary, x: np.ndarray, latents: np.ndarray, output: np.ndarray) -> None:
    given = torch.from_numpy(x)
    made = Latents.of(dictionary, torch.device("cpu"))
    _, scale, _ = made._normalized(given)
    found = (made.read(given, slice(None))[..., 0] / scale).numpy()
    np.testing.assert_allclose(found, latents, **FLOAT)
    assert ((found > 0) == (latents > 0)).all()
    assert 0 < (found > 0).mean() < 0.9
    np.testing.assert_allclose(reconstructed(dictionary, given), output, **FLOAT)
    left, _ = made.explained(given, torch.from_numpy(output))
    assert left < 1e-8


@pytest.mark.parametrize("name", CASES)
def test_as_in_sae_lens(name):
    (dictionary,) = read_dictionaries(GOLDEN / name)
    found = load_file(GOLDEN / name / "expected.safetensors")
    latents, output = found["latents"], found["output"]
    if name == "topk_rescaled":  # its latents are sizes of what is written: decoders are made unit vectors when read
        assert np.allclose(np.linalg.norm(dictionary.decoder, axis=1), 1, atol=1e-6)
    assert_same(dictionary, found["x"], latents, output)


@pytest.mark.parametrize("layer", [0, 1])
def test_as_in_circuit_tracer(layer):
    dictionaries = read_dictionaries(GOLDEN / "circuit_tracer")
    found = load_file(GOLDEN / "circuit_tracer" / "expected.safetensors")
    assert [one.writes.layer for one in dictionaries] == [0, 1]
    assert_same(dictionaries[layer], found["x"], found[f"latents.{layer}"], found[f"output.{layer}"])
    (alone,) = read_dictionaries(GOLDEN / "circuit_tracer" / f"layer_{layer}.safetensors")
    assert alone.fingerprint == dictionaries[layer].fingerprint


def test_some_latents_are_those_of_all():
    for name in ("topk", "gated_layer_norm", "jumprelu"):
        (dictionary,) = read_dictionaries(GOLDEN / name)
        made = Latents.of(dictionary, torch.device("cpu"))
        x = torch.from_numpy(load_file(GOLDEN / name / "expected.safetensors")["x"])
        some = torch.tensor([3, 5, 20])
        assert torch.allclose(made.read(x, some), made.read(x, slice(None))[..., some, :], atol=1e-6)
        assert torch.allclose(made.all(x)[..., None], made.read(x, slice(None)), atol=1e-6)


def test_every_dictionary_has_a_fingerprint_of_its_own():
    found = {name: read_dictionaries(GOLDEN / name)[0].fingerprint for name in CASES}
    again = {name: read_dictionaries(GOLDEN / name)[0].fingerprint for name in CASES}
    assert found == again
    trained_twice = {"batchtopk_inference", "batchtopk_rescaled_inference"}
    assert len({value for name, value in found.items() if name not in trained_twice}) == len(CASES) - 2


def test_the_oracle_says_so_still(tmp_path):
    oracle = os.environ.get("CIRCUITCHECK_SAE_LENS")
    if not oracle:
        pytest.skip("CIRCUITCHECK_SAE_LENS names no Python that has sae-lens and circuit-tracer")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([oracle, sae_lens_golden.__file__, tmp_path], check=True, env=environment, capture_output=True)
    for file in sorted(GOLDEN.rglob("*.safetensors")):
        stored, made = load_file(file), load_file(tmp_path / file.relative_to(GOLDEN))
        assert stored.keys() == made.keys()
        for name in stored:
            np.testing.assert_allclose(made[name], stored[name], **FLOAT, err_msg=f"{file}: {name}")
