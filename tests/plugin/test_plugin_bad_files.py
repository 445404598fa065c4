"""Task files and model directories with faults: red, with a message that says which, and nothing written."""

from __future__ import annotations

import json

import pytest
import torch
from gate_folder import VOCABULARY, random_model, read_lines, save_model, write_lines
from gate_runner import Gate
from tiny_models import tiny_module


def assert_fails(gate: Gate, *lines: str) -> None:
    before = gate.stored()
    result = gate.run("--circuit-report-dir", "out")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines([*lines, "circuit gate: FAIL (1 FAIL)"])
    result.stdout.no_fnmatch_line("*Traceback*")
    assert gate.report()["runs"][0]["verdict"] == "FAIL"
    assert gate.stored() == before


class TestTaskFile:
    def test_every_bad_line_is_named_at_once(self, gate: Gate) -> None:
        file = gate.path / "ioi.jsonl"
        lines = read_lines(file)
        lines[1] |= {"answer_id": lines[1]["foil_id"]}
        lines[2]["counterfactual_ids"] = lines[2]["counterfactual_ids"][:-1]
        lines[3] |= {"clean_ids": lines[0]["clean_ids"]}
        lines[4]["weight"] = 1
        lines[5] |= {"answer_id": VOCABULARY}
        del lines[6]["cluster"]
        write_lines(file, lines)
        with file.open("a") as stream:
            stream.write("{not json\n")
        assert_fails(
            gate,
            "f16-ioi: task file *ioi.jsonl has 7 problem(s):",
            "  line 2: answer and foil are the same token",
            "  line 3: clean has 6 tokens, counterfactual 5; they must be equally long",
            "  line 4: same clean prompt as line 1",
            "  line 5: unknown key 'weight'",
            "  line 6: answer_id must be one token id in 0..49",
            "  line 7: missing key 'cluster'",
            "  line 41: not JSON: *",
        )

    def test_empty(self, gate: Gate) -> None:
        (gate.path / "ioi.jsonl").write_text("\n\n")
        assert_fails(gate, "f16-ioi: task file *ioi.jsonl is empty; it needs one JSON object a line.")

    def test_text_for_a_model_without_a_tokenizer(self, gate: Gate) -> None:
        line = {"clean": "a b", "counterfactual": "a c", "answer": " d", "foil": " e", "cluster": "one"}
        write_lines(gate.path / "ioi.jsonl", [line])
        assert_fails(gate, "  line 1: in text, but the model has no tokenizer; give clean_ids, *")

    def test_a_built_in_task_for_a_model_without_a_tokenizer(self, gate: Gate) -> None:
        gate.configure(tasks=["ioi"])
        assert_fails(gate, "f16-ioi: task 'ioi' is in text, but the model has no tokenizer; give a JSONL file *")

    def test_it_is_not_accepted_either(self, gate: Gate) -> None:
        (gate.path / "ioi.jsonl").write_text("[]")
        before = gate.stored()
        result = gate.run("--circuit-accept=all", "--circuit-reason", "why")
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(["ioi could not be accepted, nothing was written: task file *ioi.jsonl has 1 *"])
        assert gate.stored() == before


class TestCandidateDirectory:
    """`candidate` starts as a faithful copy of the reference."""

    @pytest.fixture(autouse=True)
    def candidate(self, gate: Gate) -> None:
        save_model(random_model(), gate.path / "candidate")
        gate.configure(candidates=["candidate"])

    def test_a_faithful_copy_passes(self, gate: Gate) -> None:
        """The other tests here could not fail if this one did."""
        assert gate.run("--circuit-report").ret == pytest.ExitCode.OK

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ({"num_hidden_layers": 3}, "n_layers is 3, the reference's is 2"),
            ({"num_attention_heads": 4}, "n_heads is 4, the reference's is 2; d_head is 4, the reference's is 8"),
            ({"hidden_size": 32}, "d_head is 16, the reference's is 8"),
        ],
    )
    def test_another_shape(self, gate: Gate, shape: dict[str, int], message: str) -> None:
        save_model(random_model(**shape), gate.path / "candidate")
        assert_fails(gate, f"candidate-ioi: candidate candidate cannot be compared with model: {message}. Give *")

    def test_another_architecture(self, gate: Gate) -> None:
        save_model(tiny_module("gpt2", n_embd=16, n_head=2), gate.path / "candidate")
        assert_fails(gate, "*: class is GPT2LMHeadModel, the reference's is GPTNeoXForCausalLM. Give a candidate *")

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("place", ["embedding", "one head", "output", "one token that no prompt asks for"])
    def test_not_finite(self, gate: Gate, place: str, value: float) -> None:
        module = random_model()
        output = module.get_output_embeddings().weight
        asked = {line[key] for line in read_lines(gate.path / "ioi.jsonl") for key in ("answer_id", "foil_id")}
        tensor = {
            "embedding": module.get_input_embeddings().weight,
            "one head": module.gpt_neox.layers[1].attention.query_key_value.bias,
            "output": output,
            "one token that no prompt asks for": output[next(token for token in range(50) if token not in asked)],
        }[place]
        with torch.no_grad():
            tensor[:] = value
        save_model(module, gate.path / "candidate")
        before = gate.stored()
        result = gate.run("--circuit-report")
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.assert_outcomes(failed=4)
        result.stdout.re_match_lines([".*(NaN or infinite|not finite)", r"circuit gate: FAIL \(1 FAIL\)"])
        assert gate.stored() == before

    @pytest.mark.parametrize(
        ("file", "content", "message"),
        [
            ("config.json", None, "model directory */candidate has no config.json; *save_pretrained."),
            ("config.json", b"{", "model in */candidate cannot be loaded: *"),
            ("model.safetensors", None, "model directory */candidate has no weights; save it *as safetensors."),
            ("model.safetensors", b"\x00" * 100, "model in */candidate cannot be loaded: *"),
        ],
        ids=["no config", "broken config", "no weights", "broken weights"],
    )
    def test_files_missing_or_broken(self, gate: Gate, file: str, content: bytes | None, message: str) -> None:
        path = gate.path / "candidate" / file
        path.unlink() if content is None else path.write_bytes(content)
        assert_fails(gate, f"candidate-ioi: {message}")

    def test_truncated_weights(self, gate: Gate) -> None:
        path = gate.path / "candidate" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        assert_fails(gate, "candidate-ioi: model in */candidate cannot be loaded: *")

    def test_pickled_weights_are_not_read(self, gate: Gate) -> None:
        folder = gate.path / "candidate"
        (folder / "model.safetensors").unlink()
        torch.save(random_model().state_dict(), folder / "pytorch_model.bin")
        assert_fails(
            gate, "candidate-ioi: *has only pickled weights (pytorch_model.bin), and nothing is ever unpickled; *"
        )

    def test_remote_code_is_not_run(self, gate: Gate) -> None:
        folder = gate.path / "candidate"
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "code.Model", "AutoConfig": "code.C"}}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "code.py").write_text("from pathlib import Path\nPath('run').touch()\n")
        assert_fails(gate, "candidate-ioi: model in */candidate cannot be loaded: *")
        assert not (gate.path / "run").exists()
