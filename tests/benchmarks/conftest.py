"""Every test of this folder runs on one thread."""

from __future__ import annotations

from pathlib import Path

import pytest
from detection.subjects import Model, load
from single_thread import one_thread

from circuitcheck import HookedModel, load_model

__all__ = ["one_thread"]


@pytest.fixture(scope="session")
def reference() -> HookedModel:
    return load_model("embedded", device="cpu")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="session")
def models(cache) -> dict[str, Model]:
    """A GPT-NeoX, a GPT-2, and a Llama with grouped queries."""
    return {name: load(name, cache) for name in ("embedded", "known-induction", "known-lookup")}
