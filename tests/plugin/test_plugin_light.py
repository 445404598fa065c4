"""Every pytest run on the machine loads the plugin, so it loads nothing heavy before it is used."""

from __future__ import annotations

import sys

import pytest
from gate_runner import WITHOUT, Gate

HEAVY = ("torch", "transformers", "numpy", "scipy", "safetensors", "tokenizers", "tabulate", "tqdm", "filelock")

UNUSED = (
    "matplotlib",
    "scipy.stats",
    "circuitcheck.report.html",
    "circuitcheck.report.charts",
    "circuitcheck.modelcard",
    "circuitcheck.diagnostics.multiverse",
    "circuitcheck.diagnostics.keep_list",
    "circuitcheck.runtimes.onnx",
    "circuitcheck.dictionaries.read",
    "onnx",
    "llama_cpp",
    "bitsandbytes",
)
"""What a gate without pictures, pages, cards, other runtimes and quantizers of its own has no use for."""

TEST = f"""
import sys
from pathlib import Path


def test_light():
    Path("loaded.txt").write_text(" ".join(set({HEAVY}) & set(sys.modules)))
    Path("plugin.txt").write_text(str("circuitcheck.plugin.plugin" in sys.modules))
"""


def loaded(pytester: pytest.Pytester, *arguments: str) -> set[str]:
    """Which of the heavy ones a run of somebody else's test loads, in the process that runs the test."""
    pytester.makepyfile(test_light=TEST)
    pytester.runpytest_subprocess(*arguments, *WITHOUT).assert_outcomes(passed=1)
    assert (pytester.path / "plugin.txt").read_text() == str("no:circuitcheck" not in arguments)
    return set((pytester.path / "loaded.txt").read_text().split())


def test_importing_the_plugin(pytester: pytest.Pytester) -> None:
    result = pytester.runpython_c(
        f"import sys, circuitcheck.plugin.plugin\nprint('loaded:', sorted(set({HEAVY}) & set(sys.modules)))\n"
    )
    assert result.ret == 0
    result.stdout.fnmatch_lines(["loaded: [[][]]"])


def test_a_run_that_does_not_use_it(pytester: pytest.Pytester) -> None:
    """What other plugins load is not ours."""
    assert loaded(pytester) <= loaded(pytester, "-p", "no:circuitcheck")


def test_a_run_with_workers_that_does_not_use_it(pytester: pytest.Pytester) -> None:
    assert loaded(pytester, "-n1") <= loaded(pytester, "-n1", "-p", "no:circuitcheck")


def test_a_plugin_that_loads_more_is_not_blamed_on_ours(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(another="import numpy")
    assert "numpy" in loaded(pytester, "-p", "another")
    assert loaded(pytester, "-p", "another") <= loaded(pytester, "-p", "another", "-p", "no:circuitcheck")


def test_collecting_the_gate(gate: Gate) -> None:
    """So that --collect-only and -k answer at once."""
    (gate.path / "conftest.py").write_text(
        "import sys\n\nBEFORE = set(sys.modules)  # with what other plugins load\n\n\n"
        "def pytest_collection_finish(session):\n"
        f"    print('loaded:', sorted((set({HEAVY}) - BEFORE) & set(sys.modules)))\n"
    )
    result = gate.run_subprocess("--collect-only", "-q", "-s", "--circuit-report")
    result.stdout.fnmatch_lines_random(["loaded: [[][]]", "test_gate.py::test_drift[[]f16-ioi[]]"])


def test_a_whole_gate_loads_no_more_than_it_uses(gate: Gate) -> None:
    """Transformers loads some of the others by itself, so these are told by the parts of ours that use them."""
    (gate.path / "conftest.py").write_text(
        "import sys\n\n\n"
        "def pytest_unconfigure():\n"
        f"    print('loaded:', sorted(name for name in sys.modules if name.startswith({UNUSED})))\n"
    )
    result = gate.run_subprocess("-q", "-s", "--circuit-report")
    result.stdout.fnmatch_lines(["*loaded: [[][]]", "circuit gate: PASS*"])


def test_the_list_is_not_of_modules_that_cannot_be_found() -> None:
    """The tests above look for names; here, where the gate has run, they are all there."""
    assert set(HEAVY) <= set(sys.modules)
