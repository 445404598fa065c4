"""A real model that nobody here made, the task that it solves, and its golden baseline, made once a session."""

from __future__ import annotations

import os
from pathlib import Path

import gate_process
import name_recall
import pytest
from single_thread import one_thread

__all__ = ["one_thread"]

VARIABLE = "CIRCUITCHECK_REAL_MODEL"


@pytest.fixture(scope="session")
def real_model() -> Path:
    directory = os.environ.get(VARIABLE)
    if not directory:
        pytest.skip(f"set {VARIABLE} to the directory of stories260k")
    if not (Path(directory) / "config.json").is_file():
        pytest.fail(f"{VARIABLE} is {directory}, which holds no model", pytrace=False)
    return Path(directory).resolve()


@pytest.fixture(scope="session")
def desk(real_model, tmp_path_factory) -> gate_process.Desk:
    """A folder with the task, in which the baseline was recorded as a user records it."""
    folder = tmp_path_factory.mktemp("desk")
    name_recall.write_names(folder / "names.jsonl")
    desk = gate_process.Desk(folder, real_model, "names.jsonl")
    accepted = desk.gate("--circuit-accept=new", "--circuit-reason=first", "--circuit-accept-in-ci")
    assert accepted.returncode == 0, accepted.stdout
    return desk
