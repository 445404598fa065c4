"""Every pytest run on the machine loads the plugin, so it loads nothing heavy before it is used."""

from __future__ import annotations

import sys

import pytest
from gate_runner import WITHOUT, Gate

HEAVY = ("torch", "transformers", "numpy", "scipy", "safetensors", "tokenizers", "tabulate", "tqdm", "filelock")

TEST = f"""
import sys


def test_light():
    assert "circuitcheck.plugin.plugin" in sys.modules
    assert not sorted(set({HEAVY}) & set(sys.modules))
"""


def test_importing_the_plugin(pytester: pytest.Pytester) -> None:
    result = pytester.runpython_c(
        f"import sys, circuitcheck.plugin.plugin\nprint('loaded:', sorted(set({HEAVY}) & set(sys.modules)))\n"
    )
    assert result.ret == 0
    result.stdout.fnmatch_lines(["loaded: [[][]]"])


def test_a_run_that_does_not_use_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_light=TEST)
    pytester.runpytest_subprocess(*WITHOUT).assert_outcomes(passed=1)


def test_a_run_with_workers_that_does_not_use_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_light=TEST)
    pytester.runpytest_subprocess("-n1", *WITHOUT).assert_outcomes(passed=1)


def test_collecting_the_gate(gate: Gate) -> None:
    """So that --collect-only and -k answer at once."""
    (gate.path / "conftest.py").write_text(
        "import sys\n\n\n"
        "def pytest_collection_finish(session):\n"
        f"    print('loaded:', sorted(set({HEAVY}) & set(sys.modules)))\n"
    )
    result = gate.run_subprocess("--collect-only", "-q", "-s", "--circuit-report")
    result.stdout.fnmatch_lines_random(["loaded: [[][]]", "test_gate.py::test_drift[[]f16-ioi[]]"])


def test_the_list_is_not_of_modules_that_cannot_be_found() -> None:
    """The tests above look for names; here, where the gate has run, they are all there."""
    assert set(HEAVY) <= set(sys.modules)
