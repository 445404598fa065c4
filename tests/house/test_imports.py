"""Imports point one way, and a name is used for one thing only."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "circuitcheck"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """The contracts of pyproject.toml, held against the package in a folder."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_imports_point_one_way() -> None:
    done = lint(REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("stats/estimate.py", "from circuitcheck.gate.measure import measure", "Imports point one way"),
        ("core/units.py", "def late():\n    import circuitcheck.stats.drift", "Imports point one way"),
        (
            "core/units.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import circuitcheck.tasks.word_lists",
            "Imports point one way",
        ),
        ("gate/record.py", "def late():\n    import torch", "reach neither PyTorch nor a runtime"),
        ("gate/record.py", "import circuitcheck.runtimes.pytorch.hooked", "reach neither PyTorch nor a runtime"),
        ("plugin/cases.py", "def late():\n    import torch", "through a runtime alone"),
        ("core/units.py", "import scipy.stats", "The core needs numpy only"),
        ("runtimes/pytorch/hooks.py", "import circuitcheck.embedded.corpus", "made the embedded model"),
    ],
)
def test_the_contracts_see_an_import_that_points_elsewhere(module: str, line: str, broken: str, tmp_path: Path) -> None:
    """Of a copy of the package, with one line more."""
    for file in PACKAGE.rglob("*.py"):
        target = tmp_path / file.relative_to(REPOSITORY)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(file.read_text())
    (tmp_path / "pyproject.toml").write_text((REPOSITORY / "pyproject.toml").read_text())
    changed = tmp_path / "circuitcheck" / module
    changed.write_text(f"{changed.read_text()}\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{broken} BROKEN" in done.stdout


def test_no_two_modules_share_a_name() -> None:
    places = defaultdict(list)
    for file in PACKAGE.rglob("*.py"):
        if file.name not in ("__init__.py", "__main__.py"):
            places[file.name].append(str(file.relative_to(PACKAGE)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
