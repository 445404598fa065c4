"""Prompts of several lengths are batched by length, and never padded."""

from __future__ import annotations

import numpy as np
import pytest
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
    batches = task.prompts(index).batches(size)
    check(task, batches, everything if index is None else index)
    if size is None:
        assert len({batch.clean.shape[1] for batch in batches}) == len(batches), "one batch a length"
    else:
        assert all(len(batch.index) <= size for batch in batches)


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_tasks_have_several_lengths_and_large_batches(name):
    task = load_task(name, word_tokenizers.word_level())
    batches = task.prompts().batches()
    check(task, batches, range(128))
    assert 1 < len(batches) <= 6


@given(task=tasks(), sizes=st.tuples(st.none() | st.integers(1, 5), st.none() | st.integers(1, 5)))
def test_the_smaller_of_two_limits_counts(task, sizes):
    known = [size for size in sizes if size is not None]
    batches = task.prompts(most=sizes[0]).batches(sizes[1])
    check(task, batches, range(len(task.pairs)))
    assert not known or max(len(batch.index) for batch in batches) <= min(known)


def test_a_batch_is_numpy_arrays_of_ids_and_columns_lead_back():
    task = Task("one", (PromptPair((1, 2), (1, 3), 4, 5, "any"), PromptPair((6,), (7,), 8, 9, "any")))
    prompts = task.prompts([1, 0])
    (short, long) = prompts.batches()
    assert (short.index, long.index, prompts.columns, len(prompts)) == ((1,), (0,), {1: 0, 0: 1}, 2)
    for array in (long.clean, long.counterfactual, long.answer, long.foil):
        assert (type(array), array.dtype) == (np.ndarray, np.int64)
    assert (long.clean.tolist(), long.foil.tolist()) == ([[1, 2]], [5])


@given(task=tasks())
def test_first_tokens_that_all_pairs_of_a_batch_have_in_common(task):
    for batch in task.prompts().batches():
        pairs = [(task.pairs[place].clean, task.pairs[place].counterfactual) for place in batch.index]
        alike, seq = batch.alike, batch.clean.shape[1]
        assert all(clean[:alike] == other[:alike] for clean, other in pairs)
        assert alike == seq or any(clean[alike] != other[alike] for clean, other in pairs)
