"""The rotation between two embeddings is found, whether or not their mean was taken out."""

from __future__ import annotations

import numpy as np
import pytest

from circuitcheck.core.reading import Reading
from circuitcheck.runtimes.pytorch.feature_basis import difference, rotation


def turn_of(width: int, rng: np.random.Generator, *, keeps_ones: bool) -> np.ndarray:
    turn = np.linalg.qr(rng.standard_normal((width, width)))[0]
    if not keeps_ones:
        return turn
    axes = np.linalg.qr(np.concatenate([np.ones((width, 1)), rng.standard_normal((width, width - 1))], 1))[0]
    inner = np.eye(width)
    inner[1:, 1:] = np.linalg.qr(rng.standard_normal((width - 1, width - 1)))[0]
    return axes @ inner @ axes.T


@pytest.mark.parametrize("centred", [False, True])
def test_the_rotation_is_found(centred):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, 16)) + 2
    turn = turn_of(16, rng, keeps_ones=centred)
    given = (rows - rows.mean(1, keepdims=True) if centred else rows) @ turn
    found, is_centred = rotation(rows.astype(np.float32), given.astype(np.float32))
    assert is_centred == centred
    assert np.allclose(found @ found.T, np.eye(16), atol=1e-5)
    other = rng.standard_normal((7, 16))
    other -= other.mean(1, keepdims=True) if centred else 0
    assert np.allclose(other @ found, other @ turn, atol=1e-4)


def test_how_far_readings_differ():
    one = Reading("unembedding", (1, 2), (np.array([[[3.0], [4.0]]], np.float32),))
    two = Reading("unembedding", (1, 2), (np.array([[[3.0], [0.0]]], np.float32),))
    assert difference(one, two) == pytest.approx(0.8)
    assert difference(one, one) == 0
