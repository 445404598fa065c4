"""What a gate that never loads the reference saves: `python benchmarks/candidate_memory.py --json FILE`.

Peak resident memory of processes that do the same prompts: `run` loads the candidate and calls it on them, as a user
does, `load` does so without any position's logits but the last, `gate` measures and judges the candidate against a
golden baseline, `both` does that with the reference loaded and run beside it. The model has
Pythia's shape and random weights, each prompt's answer is what it says; candidates are saved releases. The processes
take turns, and what is reported are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from shapes import SHAPES, build, peak_bytes, tokens

PROMPTS, CLUSTERS = 40, 8
FORMS = ("f16", "int8")
JOBS = ("run", "load", "gate", "both")
TARGET = 1.1


def prepare(folder: Path, shape: str = "pythia-70m") -> None:
    """Writes the reference, its releases and its golden baseline."""
    from circuitcheck import load_model, record_reference
    from circuitcheck.core.prompts import PromptPair, Task
    from circuitcheck.runtimes.pytorch.forward import last_logits

    module = build(SHAPES[shape])
    module.save_pretrained(folder / "reference")  # type: ignore[operator]
    save_releases(folder)
    reference = load_model(folder / "reference")
    ids, _, _ = tokens(PROMPTS)
    with torch.no_grad():
        logits = last_logits(reference, ids)
    answers, foils = logits.argmax(-1).tolist(), logits.argmin(-1).tolist()
    pairs = []
    for number, clean in enumerate(ids.tolist()):
        other = [*clean[:2], (clean[2] + 1) % 50_000, *clean[3:]]
        pairs.append(
            PromptPair(tuple(clean), tuple(other), answers[number], foils[number], f"template {number % CLUSTERS}")
        )
    record_reference(reference, Task("random", tuple(pairs))).save(folder / "baselines")


def save_releases(folder: Path) -> None:
    """As their libraries save them."""
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import AutoModelForCausalLM, TorchAoConfig

    options: dict[str, dict[str, Any]] = {
        "f16": {"dtype": torch.float16},
        "int8": {"dtype": torch.float32, "quantization_config": TorchAoConfig(Int8WeightOnlyConfig())},
    }
    for form in FORMS:
        module = AutoModelForCausalLM.from_pretrained(folder / "reference", **options[form])
        module.save_pretrained(folder / form)


def work(job: str, folder: Path, form: str, memory: int | None) -> int:
    """Does one job in this process; returns its peak in bytes."""
    from circuitcheck import Baseline, judge, load_model, measure

    baseline = Baseline.load(folder / "baselines" / "random.json")
    reference = load_model(folder / "reference") if job == "both" else None
    if reference is not None:
        reference.metric(baseline.task.prompts())  # weights that are never run stay on disk, mapped
    candidate = load_model(folder / form, "saved")
    if job == "run":
        with torch.no_grad():
            for batch in baseline.task.prompts().batches():
                candidate.module(torch.from_numpy(batch.clean))
    elif job == "load":
        candidate.metric(baseline.task.prompts())
    else:
        judge(measure(candidate, baseline, memory=memory))
    assert (reference is not None) == (job == "both")
    return peak_bytes()


def main() -> None:
    """Prints a table, and writes it as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, help="byte budget of the sweeps (default: the gate's own)")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="pythia-70m")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        job, folder, form = options.work
        print(work(job, Path(folder), form, options.memory))
        return
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), options.shape)
        found = {form: _measured(Path(name), form, options) for form in FORMS}
    for form, figures in found.items():
        print(f"{form:6} " + "  ".join(f"{key} {value:.3g}" for key, value in figures.items()))
    print(f"gate_over_run is to be at most {TARGET}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def _measured(folder: Path, form: str, options: argparse.Namespace) -> dict[str, float]:
    peaks: dict[str, list[int]] = {job: [] for job in JOBS}
    for _ in range(options.rounds):
        for job in JOBS:
            command = [sys.executable, __file__, "--work", job, str(folder), form]
            command += [] if options.memory is None else ["--memory", str(options.memory)]
            output = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
            peaks[job].append(int(output.split()[-1]))
    middle = {job: statistics.median(values) for job, values in peaks.items()}
    return {
        **{f"{job}_mib": value / 2**20 for job, value in middle.items()},
        "gate_over_run": middle["gate"] / middle["run"],
        "gate_over_load": middle["gate"] / middle["load"],
        "saved_mib": (middle["both"] - middle["gate"]) / 2**20,
    }


if __name__ == "__main__":
    main()
