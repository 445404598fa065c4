"""A replay is proven once for each length of prompts on a module, and what cannot be replayed is not tried again."""

from __future__ import annotations

from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np
import pytest
import tiny_models
from patches import alone, patched_rows, units_of, zeros

from circuitcheck.runtimes.pytorch.engine import replay_proof
from circuitcheck.runtimes.pytorch.engine.clean_pass import CannotReplayError, record_clean_pass
from circuitcheck.runtimes.pytorch.hooked import HookedModel

BATCH = 3


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Length of the prompts of every proof that is run; the cheapest way holds in all of them."""
    lengths: list[int] = []
    probe = replay_proof._Probe.of

    def counted(replay):
        lengths.append(replay.clean.ids.shape[1])
        return probe(replay)

    monkeypatch.setattr(replay_proof._Probe, "of", counted)
    return lengths


def ablated(model: HookedModel, seq: int, seed: int = 0, batch: int = BATCH, engine: str = "replay") -> np.ndarray:
    ids, targets = tiny_models.token_ids(batch, seq, seed=seed), tiny_models.token_ids(2, batch, seed=1)
    return patched_rows(model, ids, *targets, zeros(model, batch, seq), alone(units_of(model)), engine=engine)


def test_prompts_of_one_length_share_a_proof_and_its_savings(proofs):
    model = tiny_models.tiny_model("gpt_neox", num_hidden_layers=3)
    for seed in range(3):
        found = ablated(model, 7, seed)
        np.testing.assert_allclose(found, ablated(model, 7, seed, engine="full"), atol=1e-5)  # another order of sums
    assert proofs == [7]
    ablated(model, 5)
    ablated(replace(model), 5)  # of the same module
    assert proofs == [7, 5]


def test_one_prompt_alone_does_not_prove_that_prompts_keep_apart(proofs):
    model = tiny_models.tiny_model("gpt_neox", num_hidden_layers=2)
    ablated(model, 6, batch=1)
    ablated(model, 6)
    ablated(model, 6)
    assert proofs == [6, 6]


def test_other_modules_in_it_are_proven_anew(proofs):
    model = tiny_models.tiny_model("gpt_neox", num_hidden_layers=2)
    ablated(model, 6)
    with model.keeping(model, [model.structure.layers[0].projection]) as kept:
        ablated(kept, 6)
    assert proofs == [6, 6]


def test_what_cannot_be_replayed_is_said_again_and_not_tried_again(proofs, monkeypatch):
    model = tiny_models.tiny_model("gpt_neox", num_hidden_layers=2)
    clean = record_clean_pass(model, tiny_models.token_ids(BATCH, 6))
    monkeypatch.setattr(replay_proof._Probe, "problem", lambda *_, **__: "layer 1 gives something else")
    tried = []
    for _ in range(2):
        with pytest.raises(CannotReplayError, match="layer 1 gives something else"):
            replay_proof.prove_replay(model, clean)
        tried.append(len(proofs))
    assert tried[0] == tried[1] > 1  # every way, once
    np.testing.assert_array_equal(ablated(model, 6), ablated(model, 6, engine="full"))


def test_a_fresh_record_of_proofs_starts_empty(proofs):
    model = tiny_models.tiny_model("gpt_neox", num_hidden_layers=2)
    ablated(model, 6)
    ablated(replace(model, proven=WeakKeyDictionary()), 6)
    assert proofs == [6, 6]
