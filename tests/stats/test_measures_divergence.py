"""The Kullback-Leibler divergence of the next token, of some tokens and all others as one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from circuitcheck.stats.divergence import kl_divergence


def test_by_hand():
    """Half and half against nine to one: 0.5 log(0.5 / 0.9) + 0.5 log(0.5 / 0.1)."""
    reference, candidate = np.log([[0.5, 0.5]]), np.log([[0.9, 0.1]])
    assert kl_divergence(reference, candidate) == pytest.approx([0.5 * np.log(0.25 / 0.09)], rel=1e-12)


def test_tokens_that_are_not_kept_are_one_more():
    reference, candidate = np.log([[0.5, 0.2]]), np.log([[0.5, 0.4]])
    expected = 0.2 * np.log(0.2 / 0.4) + 0.3 * np.log(0.3 / 0.1)
    assert kl_divergence(reference, candidate) == pytest.approx([expected], rel=1e-9)


def test_a_probability_of_nothing_is_no_infinity():
    assert np.isfinite(kl_divergence(np.log([[0.5, 0.5]]), np.array([[0.0, -1000.0]]))).all()


@given(arrays(np.float64, (2, 3, 6), elements=st.floats(-8, 8)))
def test_grouping_never_raises_it_and_a_model_is_no_distance_from_itself(logits):
    one, other = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert kl_divergence(one, one) == pytest.approx(0, abs=1e-9)  # what float64 leaves of sums to one
    assert (kl_divergence(one[:, :4], other[:, :4]) <= kl_divergence(one, other) + 1e-9).all()
