"""Every test of this folder runs on one thread."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from quick_recording import record
from single_thread import one_thread

from circuitcheck import HookedModel, MeasurementSpec, load_model, load_task
from circuitcheck.baseline.recording import Recording

__all__ = ["one_thread"]


@pytest.fixture(scope="session")
def reference() -> HookedModel:
    return load_model("embedded", device="cpu")


@pytest.fixture(scope="session")
def baselines(reference: HookedModel) -> Mapping[str, Recording]:
    """Few draws: what is asserted is far from every limit."""
    spec = MeasurementSpec(draws=200)
    return {
        name: record(reference, load_task(name, reference.tokenizer, prompts=40), spec) for name in ("ioi", "facts")
    }


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")
