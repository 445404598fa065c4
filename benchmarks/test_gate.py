"""What the gate costs: `pytest benchmarks/test_gate.py` (pytest-benchmark).

Every figure is of a whole process. The plugin's cost to a run that does not use it is measured against the same run
without the plugin.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

REPOSITORY = Path(__file__).parent.parent


def run_pytest(folder: Path, *arguments: str) -> None:
    """A pytest process that must succeed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_gate_on_the_embedded_model(benchmark: BenchmarkFixture) -> None:
    """4 candidates x 3 tasks, imports included; `extra_info` has the peak memory in MiB."""
    benchmark.pedantic(run_pytest, args=(REPOSITORY, "--circuit-report"), rounds=3, warmup_rounds=1)
    benchmark.extra_info["peak_mib"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


@pytest.mark.parametrize("plugin", ["with", "without"])
def test_a_run_that_does_not_use_the_plugin(benchmark: BenchmarkFixture, tmp_path: Path, plugin: str) -> None:
    """One empty test, with the plugin installed and with it switched off."""
    (tmp_path / "test_nothing.py").write_text("def test_nothing():\n    pass\n")
    switch = () if plugin == "with" else ("-p", "no:circuitcheck")
    benchmark.pedantic(run_pytest, args=(tmp_path, *switch), rounds=15, warmup_rounds=2)
