"""The dictionary that ships with the package: what it explains, how sparse it is, and that its script makes such."""

from __future__ import annotations

import pytest
import torch

from circuitcheck.dictionaries.read import EMBEDDED_DIRECTORY, read_dictionaries
from circuitcheck.embedded import train_dictionary
from circuitcheck.embedded.train_dictionary import LATENTS, LAYER, K
from circuitcheck.runtimes.pytorch.ports.latents import Latents

MOST_BYTES = 2_000_000


@pytest.fixture(scope="module")
def held_out() -> torch.Tensor:
    """The stream on text that it was not trained on."""
    return train_dictionary.activations(texts=2, seed=train_dictionary.SEED + 1)


@pytest.fixture(scope="module")
def latents() -> Latents:
    (dictionary,) = read_dictionaries("embedded")
    return Latents.of(dictionary, torch.device("cpu"))


def test_what_it_is(latents):
    dictionary = latents.dictionary
    assert (dictionary.architecture, dictionary.latents, dictionary.k) == ("topk", LATENTS, K)
    assert str(dictionary.reads) == str(dictionary.writes) == f"resid_post of layer {LAYER}"
    assert dictionary.centred
    assert sum(file.stat().st_size for file in EMBEDDED_DIRECTORY.iterdir()) <= MOST_BYTES


def test_it_reconstructs_and_is_sparse(latents, held_out):
    left, whole = latents.explained(held_out, held_out)
    assert 1 - left / whole > 0.97
    values = latents.all(held_out)
    assert (values > 0).sum(1).max() <= K
    assert (values > 0).float().sum(1).mean() > 0.9 * K
    assert (values > 0).any(0).float().mean() > 0.95  # few latents are dead


def test_the_script_trains_such_from_its_seed(held_out, tmp_path):
    before, few, again = (train_dictionary.train(held_out, steps, seed=3) for steps in (0, 30, 30))
    assert all(torch.equal(few[name], again[name]) for name in few)
    train_dictionary.save(few, tmp_path / "few")
    train_dictionary.save(before, tmp_path / "before")
    explained = []
    for folder in ("before", "few"):
        (dictionary,) = read_dictionaries(tmp_path / folder)
        left, whole = Latents.of(dictionary, torch.device("cpu")).explained(held_out, held_out)
        explained.append(1 - left / whole)
    assert explained[1] > max(explained[0], 0.3)
    assert torch.allclose(few["W_dec"].norm(dim=1), torch.ones(LATENTS), atol=1e-5)
