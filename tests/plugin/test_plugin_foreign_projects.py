"""Projects that have the package installed and a fixture called `circuit`: names in their namespaces are their own."""

from __future__ import annotations

import pytest
from gate_runner import WITHOUT

from circuitcheck.plugin import plugin

PROJECT = """
import pytest


@pytest.fixture
def circuit():
    return "a circuit of their own"


def test_fixture(circuit):
    assert circuit == "a circuit of their own"


@pytest.mark.parametrize("circuit", ["adder", "latch"])
def test_parameter(circuit):
    assert circuit in ("adder", "latch")
"""


def test_a_fixture_or_a_parameter_called_circuit_is_left_alone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PROJECT)
    result = pytester.runpytest_inprocess(*WITHOUT)
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=3)


def test_every_fixture_carries_the_projects_name() -> None:
    found = [name for name, value in vars(plugin).items() if type(value).__name__ == "FixtureFunctionDefinition"]
    assert found == ["circuitcheck_case"]
