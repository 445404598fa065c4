"""Correlation from sums is numpy's, whatever prompts the tokens are of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from circuitcheck.stats.correlation import PairedSums, correlation, relative_difference


def sums_of(x: np.ndarray, y: np.ndarray, prompts: int) -> PairedSums:
    """Of values `[tokens, units]`, tokens dealt to prompts one after the other."""
    prompt = np.arange(len(x)) * prompts // len(x)
    tokens = np.bincount(prompt, minlength=prompts).astype(float)

    def per_prompt(values: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(prompt, column, minlength=prompts) for column in values.T])

    return PairedSums(tokens, *(per_prompt(values) for values in (x, y, x * x, y * y, x * y)))


VALUES = arrays(np.float64, (12, 3), elements=st.integers(-8, 8).map(float))


@given(VALUES, VALUES, st.integers(1, 6))
def test_as_numpy_says(x, y, prompts):
    means = sums_of(x, y, prompts).total()
    found, moved = correlation(means), relative_difference(means)
    for unit in range(3):
        if np.ptp(x[:, unit]) and np.ptp(y[:, unit]):
            assert found[unit] == pytest.approx(np.corrcoef(x[:, unit], y[:, unit])[0, 1], abs=1e-9)
        else:
            assert np.isnan(found[unit])
        size, off = np.linalg.norm(x[:, unit]), np.linalg.norm(x[:, unit] - y[:, unit])
        expected = off / size if size else (np.inf if off else 0.0)
        assert moved[unit] == pytest.approx(expected, abs=1e-6)


def test_a_draw_weighs_prompts():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 12, 3))
    weights = np.array([[1, 1, 1], [0, 3, 0]])
    drawn = correlation(sums_of(x, y, 3).drawn(weights))
    assert drawn[0] == pytest.approx(correlation(sums_of(x, y, 3).total()))
    assert drawn[1] == pytest.approx(correlation(sums_of(x[4:8], y[4:8], 1).total()))
    assert sums_of(x, y, 3).of(slice(1, 2)).x.shape == (1, 3)


def test_a_constant_side_has_no_correlation_however_it_was_summed():
    x = np.full((12, 3), np.float32(0.1), np.float64)
    assert np.isnan(correlation(sums_of(x, np.arange(36.0).reshape(12, 3), 5).total())).all()
