"""A folder in which the gate runs: a tiny random reference, tasks in token ids that it solves, and golden baselines.

A random model has no circuit worth the name, but it has logits: each prompt's answer is the token that the model likes
best and its foil the one that it likes least, so it 'solves' every prompt, and every measure has a value.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from circuitcheck import load_model, load_task, record_reference

VOCABULARY = 50
PROMPTS, CLUSTERS = 40, 8
"""With 40 prompts of which all stay solved, the interval of behaviour_kept lies above its default limit of 0.9."""

TASKS = {"ioi": 6, "facts": 7}
"""Task to the length of its prompts."""

SUITE = ("behaviour", "drift", "importance_ranking", "repair_recovery")

GATE_TESTS = "\n".join(f"from circuitcheck.suite.test_{name} import test_{name}" for name in SUITE) + "\n"


def random_model(seed: int = 0, **settings: Any) -> GPTNeoXForCausalLM:
    """Two layers of two heads, with weights large enough that every head moves the logits."""
    known = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 32,
        "vocab_size": VOCABULARY,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    torch.manual_seed(seed)
    module = GPTNeoXForCausalLM(GPTNeoXConfig(**(known | settings)))
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.5)
    return module.eval()


def solved_lines(module: GPTNeoXForCausalLM, length: int, seed: int) -> list[dict[str, Any]]:
    """Prompt pairs that differ at their third token, and that the model solves by the widest margin it has."""
    chance = random.Random(seed)
    lines = []
    for number in range(PROMPTS):
        clean = [chance.randrange(2, VOCABULARY) for _ in range(length)]
        other = chance.choice([token for token in range(2, VOCABULARY) if token != clean[2]])
        with torch.no_grad():
            logits = module(torch.tensor([clean])).logits[0, -1]
        lines.append(
            {
                "clean_ids": clean,
                "counterfactual_ids": [*clean[:2], other, *clean[3:]],
                "answer_id": int(logits.argmax()),
                "foil_id": int(logits.argmin()),
                "cluster": f"template {number % CLUSTERS}",
            }
        )
    return lines


def write_lines(file: Path, lines: list[dict[str, Any]]) -> None:
    """One JSON object a line."""
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The same, back."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def save_model(module: GPTNeoXForCausalLM, directory: Path) -> None:
    """As a Hugging Face directory of safetensors, in place of what was there."""
    shutil.rmtree(directory, ignore_errors=True)
    module.save_pretrained(directory)


def build(folder: Path, *, record: bool = True) -> None:
    """Makes `model/`, `ioi.jsonl`, `facts.jsonl` and, unless told otherwise, `baselines/model/` in an empty folder."""
    module = random_model()
    save_model(module, folder / "model")
    for number, (task, length) in enumerate(TASKS.items()):
        write_lines(folder / f"{task}.jsonl", solved_lines(module, length, seed=number))
    reference = load_model(folder / "model")
    for task in TASKS if record else ():
        prompts = load_task(str(folder / f"{task}.jsonl"), vocabulary=VOCABULARY)
        record_reference(reference, prompts, reason="first recording").save(folder / "baselines" / "model")
