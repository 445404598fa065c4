"""Whatever is patched, a replay gives what full passes give."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import tiny_models
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from patches import units_of

from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import PromptPair, Prompts, Task
from circuitcheck.core.runtime import Work
from circuitcheck.core.specification import ABLATIONS, POSITIONS
from circuitcheck.runtimes.pytorch import UNIT_KINDS
from circuitcheck.runtimes.pytorch.engine.packing import record_bytes, row_bytes
from circuitcheck.runtimes.pytorch.hooked import HookedModel

# Sums over other batch shapes are rounded in another order; relative to the largest metric, as for replays of heads.
ROUNDING = 1e-5

MODELS = ("gpt_neox", "llama", "gpt2", "opt", "gemma2")

# A pass takes as long as it takes on the machine at hand, and a smaller set of units says no more than a larger one.
untimed = settings(deadline=None, max_examples=15, phases=(Phase.explicit, Phase.generate))


@cache
def model_of(name: str) -> HookedModel:
    return tiny_models.tiny_model(name, **({"n_layer": 3} if name == "gpt2" else {"num_hidden_layers": 3}))


def some_prompts(lengths: list[int], seed: int) -> Prompts:
    pairs = []
    for number, length in enumerate(lengths):
        clean, other = tiny_models.token_ids(2, length, seed=seed + number).tolist()
        pairs.append(PromptPair(tuple(clean), tuple(other), 3, 5, "any"))
    task = Task("random", tuple(pairs))
    # In another order, and not all of them: a mean is over the whole task all the same.
    return task.prompts(reversed(range(len(pairs) // 2 + 1)))


@st.composite
def patches(draw: st.DrawFn, model: HookedModel, prompts: Prompts) -> Patch:
    """Random sets of random units of either kind, and values of any origin."""
    kind = draw(st.sampled_from(UNIT_KINDS))
    units = st.sets(st.sampled_from(units_of(model, kind)))
    sets = tuple(draw(st.lists(units.map(tuple), min_size=1, max_size=6)))
    values = draw(st.sampled_from((*ABLATIONS, "given")))
    positions = draw(st.sampled_from(POSITIONS))
    if values != "given":
        return Patch(kind, sets, values, positions)
    other = tiny_models.tiny_model(model.name, seed=1, num_hidden_layers=3) if model.name != "gpt2" else model
    activations = other.activations(prompts, kind)
    return Patch(kind, sets, activations if positions == "all" else activations.answer_position())


@pytest.mark.parametrize("name", MODELS)
@untimed
@given(data=st.data(), lengths=st.lists(st.integers(1, 7), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_replays_equal_full_passes(name: str, data: st.DataObject, lengths: list[int], seed: int) -> None:
    model, prompts = model_of(name), some_prompts(lengths, seed)
    patch = data.draw(patches(model, prompts))
    rows = data.draw(st.integers(1, 40) | st.none())
    longest = max(lengths)
    budget = None if rows is None else 4 * (record_bytes(model, longest) + rows * row_bytes(model, longest))
    work = Work(budget)
    replayed, full = model.patched(prompts, patch, work), model.patched(prompts, patch, engine="full")
    assert replayed.shape == (len(patch.sets), len(prompts))
    assert not [note for note in work.notes if "full pass" in note]
    scale = max(np.abs(full).max(), np.abs(model.metric(prompts)).max())
    assert np.abs(replayed - full).max() <= ROUNDING * scale
