"""What `import circuitcheck` gives, and what it costs."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import circuitcheck
from circuitcheck.core.results import Verdict


def modules_after(statement: str) -> set[str]:
    """What a fresh interpreter has imported after a statement."""
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return set(done.stdout.split())


HEAVY = {"torch", "transformers", "numpy", "scipy", "safetensors", "tokenizers"}


@pytest.mark.parametrize("module", ["circuitcheck", "circuitcheck.core.errors", "circuitcheck.plugin.plugin"])
def test_importing_loads_nothing_heavy(module):
    loaded = modules_after(f"import {module}")
    assert module in loaded
    assert not loaded & HEAVY


def test_the_check_above_would_see_it():
    assert {"torch", "numpy"} <= modules_after("from circuitcheck import load_model") & HEAVY


@pytest.mark.parametrize("name", circuitcheck.__all__)
def test_every_public_name_resolves_and_is_documented(name):
    thing = getattr(circuitcheck, name)
    assert thing.__name__ == name
    documentation = inspect.getdoc(thing)
    assert documentation
    # A dataclass without a docstring gets its own signature for one.
    assert not documentation.startswith(f"{name}(")


@pytest.mark.parametrize("name", [name for name in circuitcheck.__all__ if name.islower()])
def test_every_function_documents_all_of_its_arguments(name):
    function = getattr(circuitcheck, name)
    documentation = inspect.getdoc(function)
    parameters = list(inspect.signature(function).parameters)
    if len(parameters) > 1:
        assert "Args:" in documentation
        assert [parameter for parameter in parameters if f"{parameter}: " not in documentation] == []


def test_names_are_sorted_and_match_what_type_checkers_see():
    source = ast.parse(Path(circuitcheck.__file__).read_text(encoding="utf-8"))
    block = next(node for node in source.body if isinstance(node, ast.If))
    declared = {alias.name: node.module for node in block.body for alias in node.names}
    assert declared == circuitcheck._HOMES
    assert circuitcheck.__all__ == sorted(declared)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'circuitcheck' has no attribute 'mesure'"):
        circuitcheck.mesure  # noqa: B018


def test_example_of_the_package_runs(capsys):
    """As it stands in the docstring, but for the number of prompts."""
    example = inspect.getdoc(circuitcheck).partition("\n\n")[2]
    small = example.replace('load_model("embedded").tokenizer)', 'load_model("embedded").tokenizer, prompts=20)')
    assert small != example
    names: dict = {}
    exec(compile(small, "docstring", "exec"), names)
    printed = capsys.readouterr().out
    row = printed.splitlines()[3].split()
    assert row[:2] == ["int8-sim", "ioi"]
    assert row[-1] == "INCONCLUSIVE"  # 20 prompts are too few to be sure that 90 % are still solved
    assert "!" not in "".join(row)
    assert "Most fragile heads of int8-sim" in printed


def test_pipeline_is_typed():
    """What the README promises: plain functions from models to verdicts."""
    assert inspect.signature(circuitcheck.judge).return_annotation == "Verdict"
    assert circuitcheck.Verdict is Verdict
    assert (Path(circuitcheck.__file__).parent / "py.typed").is_file()
