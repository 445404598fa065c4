"""Prompts of several lengths are batched by length, and never padded."""

from __future__ import annotations

import pytest
import torch
import word_tokenizers
from hypothesis import given
from hypothesis import strategies as st

from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.tasks.named import BUILT_IN, load_task

tokens = st.integers(0, 9)


@st.composite
def tasks(draw):
    def pair(length):
        prompt = st.lists(tokens, min_size=length, max_size=length).map(tuple)
        return st.builds(PromptPair, prompt, prompt, tokens, tokens, st.just("any"))

    return Task("random", tuple(draw(st.lists(st.integers(1, 4).flatmap(pair), min_size=1, max_size=12))))


def check(task, batches, index):
    """Each batch holds, row by row, exactly its pairs' ids."""
    for batch in batches:
        pairs = [task.pairs[place] for place in batch.index]
        assert batch.clean.tolist() == [list(pair.clean) for pair in pairs]
        assert batch.counterfactual.tolist() == [list(pair.counterfactual) for pair in pairs]
        assert batch.answer.tolist() == [pair.answer for pair in pairs]
        assert batch.foil.tolist() == [pair.foil for pair in pairs]
    assert sorted(place for batch in batches for place in batch.index) == sorted(index)


@given(task=tasks(), data=st.data(), size=st.none() | st.integers(1, 5))
def test_batches_hold_what_was_asked_for_and_nothing_else(task, data, size):
    everything = range(len(task.pairs))
    index = data.draw(st.none() | st.lists(st.sampled_from(everything), unique=True))
    batches = task.batches(index, size)
    check(task, batches, everything if index is None else index)
    if size is None:
        assert len({batch.clean.shape[1] for batch in batches}) == len(batches), "one batch a length"
    else:
        assert all(len(batch.index) <= size for batch in batches)


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_tasks_have_several_lengths_and_large_batches(name):
    task = load_task(name, word_tokenizers.word_level())
    batches = task.batches()
    check(task, batches, range(64))
    assert 1 < len(batches) <= 6


def test_a_batch_moves_as_a_whole():
    task = Task("one", (PromptPair((1, 2), (1, 3), 4, 5, "any"),))
    moved = task.batches()[0].to(torch.device("meta"))
    tensors = (moved.clean, moved.counterfactual, moved.answer, moved.foil)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.index == (0,)
