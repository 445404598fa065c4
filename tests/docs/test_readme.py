"""The README is true: its commands are CI's, and its code and settings run."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from circuitcheck.plugin.settings import OPTIONS
from circuitcheck.tasks.jsonl import ID_KEYS, TEXT_KEYS
from circuitcheck.verdict.limits import check_overrides, limits_for

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def test_ci_runs_the_two_commands_of_the_first_screen() -> None:
    """The second in two halves side by side, which together are all tests."""
    gate, tests = (block.strip() for block in blocks("console")[:2])
    assert gate.endswith("&& pytest --circuit-report")
    assert tests.endswith("&& pytest tests")
    ci = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    # CI adds only that a failure ends it.
    assert f"{gate} || exit 1" in ci
    assert f"{tests.removesuffix(' && pytest tests')} || exit 1" in ci
    (half,) = (line.removeprefix('half="').removesuffix('"').split() for line in ci if line.startswith("half="))
    assert all((REPOSITORY / "tests" / folder).is_dir() for folder in half)
    assert any(line.startswith("pytest $(printf 'tests/%s ' $half)") for line in ci)
    assert any(line.startswith("pytest tests $(printf -- '--ignore=tests/%s ' $half)") for line in ci)


def test_torch_is_pinned_exactly() -> None:
    constraints = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert "torch==2.13.0" in constraints
    assert all("==" in line for line in constraints)


def test_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "int8-sim" in shown
    assert "PASS" in shown


def test_settings_example_is_accepted() -> None:
    (example,) = blocks("toml")
    table = tomllib.loads(example)["tool"]["circuitcheck"]
    assert set(table) <= {option.key for option in OPTIONS if option.where != "command line"}
    check_overrides(table["limits"])
    limits = limits_for("f16", "ioi", table["limits"])
    assert (limits.profile_distance, limits.drift_median, limits.drift_largest) == (0.2, 0.002, 0.01)


def test_task_example_has_the_right_keys() -> None:
    (example,) = blocks("json")
    text, ids = (json.loads(line) for line in example.splitlines())
    assert set(text) == TEXT_KEYS
    assert set(ids) == ID_KEYS


def test_every_option_in_the_readme_exists() -> None:
    mentioned = set(re.findall(r"--circuit-[a-z-]+", README))
    assert mentioned <= {option.flag for option in OPTIONS}
