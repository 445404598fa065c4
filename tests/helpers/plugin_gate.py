"""The plugin runs on a tiny random model, which is built and recorded once and copied into each test's folder."""

from __future__ import annotations

import pkgutil
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import execnet  # noqa: F401  (a run in this process drops the modules that it is the first to import)
import pytest
from gate_folder import build
from gate_runner import Gate

import circuitcheck
from circuitcheck.runtimes.pytorch import hooked
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


@contextmanager
def few_roundings() -> Iterator[None]:
    """One for each precision: most of the time of an accept is for the others, which these tests do not read."""
    first = {way.precision: way for way in reversed(hooked.WAYS)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hooked, "WAYS", tuple(way for way in hooked.WAYS if way is first[way.precision]))
        yield


@pytest.fixture(autouse=True)
def one_rounding_a_precision() -> Iterator[None]:
    """Of runs in this process."""
    with few_roundings():
        yield


@pytest.fixture(scope="session")
def gate_source(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """The folder that tests copy; never changed."""
    folder = tmp_path_factory.mktemp("gate")
    with few_roundings():
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
