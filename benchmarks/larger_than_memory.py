"""What a reference larger than memory costs: `python benchmarks/larger_than_memory.py --json FILE`.

A random model of Pythia-410M's shape in float32 (1.6 GB) is recorded twice from the same files, each in a process of
its own, which take turns: with all weights in memory, and with all layers left in their safetensors files
(`--circuit-device-map disk`) under a budget. Beside the time stands the largest resident memory of the process, which
includes the pages of the files that it has mapped, and Python with its libraries; the system takes such pages back
where it needs them. `--limit` enforces a limit on the second way: a control group (cgroup) of that much memory, without
swap, which ends the process where it needs more. Beforehand the model's files are dropped from the page cache, so that
what is read of them counts; libraries that other processes have loaded count there. It needs root. The noise floor and
plain roundings are left out of both, since the latter need a copy in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
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


@contextmanager
def group_of(mebibytes: int | None) -> Iterator[Path | None]:
    """A control group of so much memory for a process to join; None where no limit is asked for."""
    if mebibytes is None:
        yield None
        return
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    first = next((path for _, kind, path in lines if kind == "memory"), None)
    root = Path("/sys/fs/cgroup/memory" if first else "/sys/fs/cgroup")
    group = root / (first or next(path for _, kind, path in lines if not kind)).lstrip("/") / f"limit-{os.getpid()}"
    group.mkdir()
    try:
        names = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes") if first else ("memory.max",)
        for name in names:
            (group / name).write_text(str(mebibytes * MIB))
        yield group
    finally:
        group.rmdir()


def forget(folder: str) -> None:
    """Drops the folder's files from the page cache."""
    for file in Path(folder).iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    """Makes the model, runs both ways in turn, and prints what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where all figures go")
    parser.add_argument("--shape", choices=shapes.SHAPES, default="pythia-410m")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--budget", type=int, default=270, help="of weights, records and rows, in MiB")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--limit", type=int, help="of the second way, enforced, in MiB")
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
            forget(folder)
            with group_of(arguments.limit if way == "files" else None) as group:
                join = None if group is None else partial((group / "cgroup.procs").write_text, "0")
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, preexec_fn=join)
            turns[way].append(json.loads(done.stdout.splitlines()[-1]))
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
