"""What a gate of neurons costs beside one of heads: `python benchmarks/many_units.py --json FILE`.

The embedded model on `ioi`, and random weights of Pythia-160M's shape (144 heads, 36,864 neurons) on prompts that it
solves by construction. Seconds are of the processor, one thread, the best of several; recordings keep no roundings.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from circuitcheck import HookedModel, MeasurementSpec, hook_module, load_model, load_task, record_reference
from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.gate.decide import decide
from circuitcheck.runtimes.pytorch.forward import last_logits

KINDS = ("head", "neuron")
PROMPTS, PART, SEQ = 6, 3, 6
"""Of the large shape; twice as many prompts as values are kept of, as by default."""


def large() -> tuple[HookedModel, Task, int]:
    """A random model of Pythia-160M's shape but for its vocabulary, and prompts whose answer it says."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=1024,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        max_position_embeddings=64,
        attn_implementation="eager",
    )
    model = hook_module(GPTNeoXForCausalLM(config).eval(), name="Pythia-160M's shape")
    pairs = []
    for number in range(PROMPTS):
        ids = torch.randint(2, 1024, (2, SEQ))
        with torch.no_grad():
            logits = last_logits(model, ids[:1])[0]
        answer, foil = int(logits.argmax()), int(logits.argmin())
        pairs.append(PromptPair(tuple(ids[0].tolist()), tuple(ids[1].tolist()), answer, foil, f"cluster {number % 6}"))
    return model, Task("random", tuple(pairs)), PART


def embedded() -> tuple[HookedModel, Task, int]:
    """What ships with the package."""
    model = load_model("embedded")
    return model, load_task("ioi", model.tokenizer), MeasurementSpec.part


def timed(model: HookedModel, task: Task, part: int, repeats: int) -> dict[str, Any]:
    """Seconds of a gate of each kind, of a copy of the reference, and bytes of its baseline."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        start = time.process_time()
        spec = MeasurementSpec(unit=kind, part=part, margin=0.0)
        baseline = record_reference(model, task, spec, kinds=("resample",), sources=(), roundings=())
        recorded, seconds = time.process_time() - start, []
        for _ in range(repeats):
            start = time.process_time()
            decide(model, baseline)
            seconds.append(time.process_time() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found[kind] = {"units": len(model.layout(kind).units), "recorded": recorded, "gate": min(seconds), "KiB": peak}
    return found | {"ratio": found["neuron"]["gate"] / found["head"]["gate"]}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("embedded", "large"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    makers = {"embedded": embedded, "large": large}
    rows = {}
    for name, make in makers.items():
        if options.only in (None, name):
            rows[name] = timed(*make(), options.repeats)
            print(name, json.dumps(rows[name]), flush=True)
            options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
