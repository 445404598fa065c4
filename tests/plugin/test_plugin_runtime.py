"""`--circuit-runtime`, and variants of files."""

from __future__ import annotations

from pathlib import Path

import gguf_writer
import pytest
import torch
from gate_folder import VOCABULARY, random_model
from gate_runner import Gate

from circuitcheck.plugin.configuration import read_settings
from circuitcheck.runtimes.choose import KINDS


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


@pytest.fixture
def release(gate: Gate) -> Path:
    """The gate's reference as a GGUF file in float16."""
    if not KINDS["llamacpp"].is_installed:
        pytest.skip('llama-cpp-python is not installed: pip install "circuitcheck[llamacpp]"')
    return gguf_writer.write_gguf(
        random_model(), gate.path / "mine.gguf", "F16", tokens=gguf_writer.made_up_words(VOCABULARY)
    )


def test_a_gguf_file_runs_in_llama_cpp(gate: Gate, release: Path) -> None:
    """By itself, and by name; transformers has no loader for this architecture."""
    result = gate.run("--circuit-report-dir=out", f"--circuit-candidate={release.name}", "--circuit-candidate=f16")
    assert result.ret == 0, str(result.stdout)
    mine, made = gate.report()["runs"]
    assert (mine["candidate"], mine["precision"], mine["verdict"]) == ("mine.gguf", "f16", "PASS")
    assert mine["notes"][0].startswith("Runs in llama.cpp (llama-cpp-python ")
    assert "flash attention on, cache f16; m is read from its own logits." in mine["notes"][0]
    assert mine["environment"]["libraries"].keys() - made["environment"]["libraries"].keys() == {"llama-cpp-python"}
    assert {unit["drift"] > 0 for unit in mine["units"]} == {True}
    assert "Runs in llama.cpp" in (gate.path / "out" / "report.md").read_text()
    assert "Runs in llama.cpp" in (gate.path / "out" / "report.html").read_text()


def test_the_other_runtime_is_told_by_its_own_error(gate: Gate, release: Path) -> None:
    result = gate.run("--circuit-report", f"--circuit-candidate={release.name}", "--circuit-runtime=pytorch")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*GGUF model with architecture gptneox is not supported yet*"])


def test_a_cache_that_the_model_cannot_have_fails(gate: Gate, release: Path) -> None:
    result = gate.run("--circuit-report", f"--circuit-candidate={release.name}@kv=q8_0")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*K cache type q8_0 with block size 32 does not divide n_embd_head_k=8*"])


def test_what_to_keep_is_searched_for_in_llama_cpp(gate: Gate, release: Path) -> None:
    """Projections of one layer have lost all but their signs; the list is in llama.cpp's words, too."""
    module = random_model()
    with torch.no_grad():
        for name, weight in module.gpt_neox.layers[1].named_parameters():
            if weight.dim() > 1 and "attention" in name:
                weight.copy_(weight.sign() * weight.abs().mean())
    gguf_writer.write_gguf(module, release, "F16", tokens=gguf_writer.made_up_words(VOCABULARY))
    result = gate.run("--circuit-keep", "--circuit-report-dir=out", f"--circuit-candidate={release.name}")
    assert result.ret == 1
    (run,) = gate.report()["runs"]
    assert run["verdict"] == "FAIL"
    keep = run["keep"]
    assert (keep["verdict"], keep["message"]) == ("PASS", "")
    assert set(keep["modules"]) <= {f"gpt_neox.layers.1.attention.{name}" for name in ("query_key_value", "dense")}
    assert keep["modules"]
    assert "--tensor-type 'blk\\.1\\.attn_" in keep["llama_cpp"]
    assert keep["llama_cpp"] in str(result.stdout).replace("\n", " ")
