"""Runs pytest in a gate folder, and reads what it left."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from gate_folder import GATE_TESTS

PYTEST_TABLE = '[tool.pytest.ini_options]\nfilterwarnings = ["error"]\n'

WITHOUT = ("-p", "no:benchmark", "-p", "no:hypothesispytest")
"""pytest-benchmark warns when it meets xdist, and warnings are errors here; every run would import hypothesis anew."""

COUNTING_CONFTEST = """
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def counted():
    from circuitcheck.gate import decide
    from circuitcheck.gate import measure as module

    real = module.measure

    def measure(candidate, baseline, **options):
        with Path("measured.txt").open("a") as log:
            log.write(f"{candidate.precision}-{baseline.task.name}\\n")
        return real(candidate, baseline, **options)

    with pytest.MonkeyPatch.context() as patch:
        for place in (module, decide):  # which has its own name for it
            patch.setattr(place, "measure", measure)
        yield
"""
"""Notes every measurement, in whichever process it happens."""


class Gate:
    """A folder with a reference, tasks, baselines and the gate's tests."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path
        self.baselines = self.path / "baselines" / "model"
        self.model = self.path / "model"
        (self.path / "test_gate.py").write_text(GATE_TESTS)
        self.configure()

    def configure(self, **settings: Any) -> None:
        """Writes [tool.circuitcheck] of pyproject.toml; one candidate on one task, if not told otherwise.

        Underscores become hyphens; what is None is left out.
        """
        known = {"model": "model", "candidates": ["f16"], "tasks": ["ioi.jsonl"]}
        known |= {name.replace("_", "-"): value for name, value in settings.items()}
        lines = [f"{name} = {_toml(value)}\n" for name, value in known.items() if value is not None]
        self.write_pyproject("[tool.circuitcheck]\n" + "".join(lines))

    def write_pyproject(self, text: str) -> None:
        """Writes pyproject.toml with pytest's own table, in which every warning is an error, before `text`."""
        (self.path / "pyproject.toml").write_text(PYTEST_TABLE + text)

    def run(self, *arguments: str) -> pytest.RunResult:
        """pytest in this process; a KeyboardInterrupt in it stays in it."""
        return self.pytester.runpytest_inprocess(*arguments, *WITHOUT, no_reraise_ctrlc=True)

    def run_subprocess(self, *arguments: str) -> pytest.RunResult:
        """pytest in a process of its own."""
        return self.pytester.runpytest_subprocess(*arguments, *WITHOUT)

    def report(self, directory: str = "out") -> dict[str, Any]:
        """`report.json`."""
        return json.loads((self.path / directory / "report.json").read_text())

    def count_measurements(self) -> None:
        """From now on runs note what they measure."""
        (self.path / "conftest.py").write_text(COUNTING_CONFTEST)

    def baseline_file(self, ending: str, task: str = "ioi") -> Path:
        """The JSON or the safetensors file of a baseline."""
        (file,) = self.baselines.glob(f"{task}.json" if ending == "json" else f"{task}.*.{ending}")
        return file

    def remove_baseline(self, task: str = "ioi") -> None:
        """As if it had never been recorded."""
        for file in self.baselines.glob(f"{task}.*"):
            file.unlink()

    @property
    def measured(self) -> list[str]:
        """`candidate-task` of every measurement of the runs so far, sorted."""
        file = self.path / "measured.txt"
        return sorted(file.read_text().split()) if file.exists() else []

    def stored(self) -> dict[str, bytes]:
        """All files below the folder of baselines, temporary ones too."""
        root = self.path / "baselines"
        return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def without_hashes(names: Iterable[str]) -> list[str]:
    """Names of files, sorted, without the hashes that array files are named by."""
    return sorted(re.sub(r"\.[0-9a-f]{16}\.safetensors$", ".safetensors", name) for name in names)


def report_section(result: pytest.RunResult) -> list[str]:
    """The report, from its heading on, and the verdict of the run; without files and times."""
    lines = result.outlines
    first = next(number for number, line in enumerate(lines) if "= circuit report =" in line)
    section = takewhile(lambda line: not line.startswith(("=", "wrote ")), lines[first + 1 :])
    return [lines[first], *section, lines[-1]]


def files_below(folder: Path) -> list[str]:
    """Names of all files, for tests that nothing was written."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {_toml(item)}" for name, item in value.items()) + "}"
    return json.dumps(value)
