"""The plugin runs on a tiny random model, which is built and recorded once and copied into each test's folder."""

from __future__ import annotations

import pkgutil
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import execnet  # noqa: F401  (a run in this process drops the modules that it is the first to import)
import pytest
from gate_folder import build
from gate_runner import Gate

import circuitcheck
from circuitcheck.runtimes.pytorch.threads import computing_threads


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """More threads than one only wait for each other on matrices this small."""
    with computing_threads(1):
        yield


@pytest.fixture(scope="session", autouse=True)
def all_modules() -> None:
    """Imports the whole package, because a run in this process drops the modules that it is the first to import."""
    for module in pkgutil.walk_packages(circuitcheck.__path__, "circuitcheck."):
        if "embedded" not in module.name:
            import_module(module.name)


@pytest.fixture(scope="session")
def gate_source(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """The folder that tests copy; never changed."""
    folder = tmp_path_factory.mktemp("gate")
    build(folder)
    return folder


@pytest.fixture
def gate(pytester: pytest.Pytester, gate_source: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """A folder of the test's own, outside CI."""
    for name in ("CI", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.copytree(gate_source, pytester.path, dirs_exist_ok=True)
    return Gate(pytester)
