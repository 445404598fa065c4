"""How well `circuitcheck.plan` predicts: `python benchmarks/plan.py DIRECTORY:PROMPTS:TOKENS:POSITIONS ...`.

A zero ablation of all heads of a random model of each directory's configuration, in one thread, in processor seconds,
beside what the cost model says of it on the machine as it was measured just before.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.core.runtime import Work
from circuitcheck.plan.cost import Job, sweep
from circuitcheck.plan.hardware import Hardware
from circuitcheck.runtimes.pytorch.loading.load import hook_module
from circuitcheck.runtimes.pytorch.loading.shape import shape_of
from circuitcheck.runtimes.pytorch.speed import speed


def compare(directory: str, prompts: int, tokens: int, at: Any) -> dict[str, Any]:
    """One sweep, measured and predicted."""
    shape = shape_of(directory)
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory), attn_implementation="eager")
    model = hook_module(module.eval())
    ids = torch.randint(1, shape.vocabulary, (prompts, tokens), generator=torch.Generator().manual_seed(1)).tolist()
    task = Task("random", tuple(PromptPair(tuple(row), tuple(row), 1, 2, "one") for row in ids))
    patch = Patch("head", tuple((unit,) for unit in model.layout("head").units), "zero", at)
    machine = Hardware("this machine", *speed(), tokens=1024, answers=256)
    start = time.process_time()
    model.patched(task.prompts(), patch, Work())
    measured = time.process_time() - start
    predicted = sweep("sweep", shape, Job(prompts, tokens, at), machine, prompts).seconds
    found = {"model": shape.name, "heads": shape.heads, "prompts": prompts, "tokens": tokens, "at": at}
    return found | {"measured": measured, "predicted": predicted, "ratio": predicted / measured}


def main() -> None:
    """Prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", metavar="DIRECTORY:PROMPTS:TOKENS:POSITIONS")
    parser.add_argument("--json", type=Path, help="where all figures go")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for case in arguments.cases:
        directory, prompts, tokens, at = case.rsplit(":", 3)
        results.append(compare(directory, int(prompts), int(tokens), at))
        print(json.dumps(results[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
