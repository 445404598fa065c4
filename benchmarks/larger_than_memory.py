"""What a reference larger than memory costs: `python benchmarks/larger_than_memory.py --json FILE`.

A random model of Pythia-410M's shape in float32 (1.6 GB) is recorded twice from the same files, each in a process of
its own, which take turns: with all weights in memory, and with all layers left in their safetensors files
(`--circuit-device-map disk`) under a budget. Beside the time stands the largest resident memory of the process, which
includes the pages of the files that it has mapped, and Python with its libraries; the system would take such pages back
where it needs them. It is measured, not enforced. The noise floor and plain roundings are left out of both, since the
latter need a copy in memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import shapes
import torch

MIB = 2**20
TOKENS = 8
WAYS = ("resident", "files")


def work(directory: Path, way: str, prompts: int, budget: int, arrays: Path) -> None:
    """One recording, in this process; prints a line of JSON."""
    from circuitcheck.core.prompts import PromptPair, Task
    from circuitcheck.core.specification import MeasurementSpec
    from circuitcheck.gate.record import record_reference
    from circuitcheck.runtimes.pytorch.forward import last_logits
    from circuitcheck.runtimes.pytorch.loading.load import load_model

    away = way == "files"
    model = load_model(directory, device_map="disk" if away else None, memory=budget if away else None)
    pairs = []
    generator = torch.Generator().manual_seed(0)
    for number in range(prompts):
        ids = torch.randint(1, shapes.VOCABULARY, (1, TOKENS), generator=generator)
        with torch.no_grad():
            logits = last_logits(model, ids)[0]
        clean, targets = tuple(ids[0].tolist()), (int(logits.argmax()), int(logits.argmin()))
        pairs.append(PromptPair(clean, (clean[0], clean[1] - 1, *clean[2:]), *targets, f"cluster {number}"))
    spec = MeasurementSpec(draws=100, margin=0.01)
    start, used = time.perf_counter(), time.process_time()
    baseline = record_reference(
        model,
        Task("random", tuple(pairs)),
        spec,
        kinds=("resample",),
        sources=(),
        roundings=(),
        memory=budget if away else None,
    )
    answer = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - used}
    np.save(arrays, baseline.ablated["resample"])
    print(json.dumps(answer | {"peak_mib": shapes.peak_bytes() / MIB, "solved": len(baseline.solved)}))


def main() -> None:
    """Makes the model, runs both ways in turn, and prints what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where all figures go")
    parser.add_argument("--shape", choices=shapes.SHAPES, default="pythia-410m")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--budget", type=int, default=270, help="of weights, records and rows, in MiB")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--worker", nargs=3, metavar=("DIRECTORY", "WAY", "ARRAYS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        directory, way, arrays = arguments.worker
        work(Path(directory), way, arguments.prompts, arguments.budget * MIB, Path(arrays))
        return
    turns: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        shapes.build(shapes.SHAPES[arguments.shape]).save_pretrained(folder)
        options = [f"--prompts={arguments.prompts}", f"--budget={arguments.budget}"]
        for way in WAYS * arguments.rounds:
            command = [
                sys.executable,
                "-W",
                "ignore",
                __file__,
                *options,
                "--worker",
                folder,
                way,
                f"{folder}/{way}.npy",
            ]
            line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
            turns[way].append(json.loads(line))
            print(way, turns[way][-1], flush=True)
        resident, files = (np.load(f"{folder}/{way}.npy") for way in WAYS)
    least = {way: min(turn["cpu_seconds"] for turn in turns[way]) for way in WAYS}
    summary = {
        "turns": turns,
        "ratio_of_cpu_seconds": least["files"] / least["resident"],
        "max_difference": float(np.abs(resident - files).max()),
    }
    print(json.dumps(summary, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
