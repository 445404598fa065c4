"""`--circuit-runtime`, and variants of files."""

from __future__ import annotations

from gate_runner import Gate

from circuitcheck.plugin.configuration import read_settings


def test_the_plugin_asks_for_what_its_settings_say(gate: Gate) -> None:
    """A saved directory, named in the table and seen from there."""
    gate.configure(candidates=["mine.gguf@kv=q8_0"], runtime="pytorch")
    (gate.path / "mine.gguf").touch()
    settings = read_settings(gate.pytester.parseconfig())
    assert settings.candidates == (str(gate.path / "mine.gguf@kv=q8_0"),)
    assert settings.runtime == "pytorch"


def test_an_unknown_runtime_is_refused(gate: Gate) -> None:
    result = gate.run("--circuit-report", "--circuit-runtime=jax")
    assert result.ret != 0
    assert "invalid choice: 'jax'" in str(result.stderr)


def test_files_that_the_named_runtime_does_not_run_fail(gate: Gate) -> None:
    """PyTorch knows no types of a cache."""
    (gate.path / "mine.gguf").touch()
    result = gate.run("--circuit-report", "--circuit-runtime=pytorch", "--circuit-candidate=mine.gguf@kv=f16")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*candidate 'mine.gguf' is nothing that PyTorch runs*"])
