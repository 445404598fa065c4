"""`--circuit-keep`: what must stay in high precision for a failing candidate to pass."""

from __future__ import annotations

import shutil

import pytest
from gate_runner import Gate
from safetensors.torch import load_file, save_file


@pytest.fixture
def damaged(gate: Gate) -> Gate:
    """A candidate that fails: two bits for every projection."""
    gate.configure(candidates=["int2-rtn"], tasks=["ioi.jsonl", "facts.jsonl"])
    return gate


def test_a_failing_candidate_gets_a_list_that_makes_it_pass(damaged: Gate) -> None:
    result = damaged.run("--circuit-keep", "--circuit-report-dir=out")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    runs = damaged.report()["runs"]
    assert {run["verdict"] for run in runs} == {"FAIL"}
    keeps = [run["keep"] for run in runs]
    assert keeps[0] == keeps[1], "the list is the candidate's, for all of its tasks"
    keep = keeps[0]
    assert keep["modules"]
    assert keep["verdict"] == "PASS", "float modules in place of all that were rounded are the reference"
    for key, argument in (
        ("torchao", "modules_to_not_convert"),
        ("compressed_tensors", "ignore"),
        ("bitsandbytes", "llm_int8_skip_modules"),
    ):
        assert keep[key].startswith(f"{argument}=")
        assert all(module in keep[key] for module in keep["modules"])
    result.stdout.fnmatch_lines(["*in high precision*", f"*{keep['torchao'][:40]}*"])


def test_a_passing_candidate_needs_none(gate: Gate) -> None:
    assert gate.run("--circuit-keep", "--circuit-report-dir=out").ret == pytest.ExitCode.OK
    assert gate.report()["runs"][0]["keep"] is None


def test_it_is_searched_for_on_request_only(damaged: Gate) -> None:
    damaged.run("--circuit-report-dir=out")
    assert [run["keep"] for run in damaged.report()["runs"]] == [None, None]


def test_damage_outside_of_the_projections_is_said_in_one_line_without_recipes(gate: Gate) -> None:
    """Words of the embedding were swapped, and the projections rounded to two bits."""
    shutil.copytree(gate.model, gate.path / "broken")
    file = gate.path / "broken" / "model.safetensors"
    tensors = load_file(file)
    tensors["gpt_neox.embed_in.weight"] = tensors["gpt_neox.embed_in.weight"].flip(0).contiguous()
    for name, tensor in tensors.items():
        if name.startswith("gpt_neox.layers") and tensor.dim() == 2:
            tensors[name] = tensor.sign() * tensor.abs().mean()
    save_file(tensors, file, metadata={"format": "pt"})
    gate.configure(candidates=["broken"])
    result = gate.run("--circuit-keep", "--circuit-report", "--circuit-report-dir=out")
    keep = gate.report()["runs"][0]["keep"]
    assert (keep["modules"], keep["verdict"], keep["measured"]) == ([], "FAIL", 2)
    assert [keep[library] for library in ("torchao", "compressed_tensors", "bitsandbytes")] == ["", "", ""]
    assert keep["message"].startswith("not even with all 8 projections in high precision does it pass (FAIL): ")
    text = " ".join(result.stdout.str().split())
    assert text.count(f"no keep list: {keep['message']}") == 1
    assert "re-measured so" not in text
    assert "modules_to_not_convert" not in text
