"""Tests of llama.cpp's runtime; skipped where its binding is not installed, which takes a compiler and minutes."""

from __future__ import annotations

import pytest
from llama_pairs import Pair, make_pair
from single_thread import one_thread

from circuitcheck import Baseline, record_reference
from circuitcheck.runtimes.choose import KINDS

__all__ = ["one_thread"]

WIDTHS = {"hidden_size": 64, "intermediate_size": 128}
"""Rows of two blocks, so that quantized types are stored as they are."""


@pytest.fixture(scope="session", autouse=True)
def binding() -> None:
    if not KINDS["llamacpp"].is_installed:
        pytest.skip('llama-cpp-python is not installed: pip install "circuitcheck[llamacpp]"')


@pytest.fixture(scope="session")
def llama(binding: None, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two layers of four heads that share two keys and values."""
    return make_pair(tmp_path_factory.mktemp("llama"), "llama", **WIDTHS)


@pytest.fixture(scope="session")
def wide(binding: None, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Heads of 32 numbers and rows of 256, as wide as the blocks of caches and of weights.

    Words tell more than what the layers add, as in a trained model.
    """
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 8, "head_dim": 32}
    return make_pair(tmp_path_factory.mktemp("wide"), "llama", emphasis=4.0, prompts=40, **sizes)


@pytest.fixture(scope="session")
def wide_baseline(wide: Pair) -> Baseline:
    """The reference's circuit, with what 8-bit and 4-bit rounding do to it."""
    return record_reference(wide.reference, wide.task)
