"""The whole gate's time against an earlier commit: `python benchmarks/gate_speed.py --against REV --json FILE`.

Both sides run in this environment, the earlier one from a work tree that git makes of REV, and take turns; what is
reported are medians and ratios. `gate` is `pytest --circuit-report` on the embedded model as a user runs it, `busy` the
same while one core is kept busy by a plain loop, `record` the embedded baselines by the interface of Python, without
what rounding does to the model, which earlier commits did not record; `accept` is `pytest --circuit-accept=new` as a
user runs it, with that. `passes` counts, in CPU seconds of one thread,
how many clean passes over all prompts (last position's logits only) recording and gating an undamaged candidate cost
at Pythia's shapes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peak_memory import watched

HERE = Path(__file__).parents[1]
WORKER = Path(__file__).with_name("gate_speed_worker.py")
TARGETS = {"gate": 0.5, "busy": 0.25, "record": 0.6}
"""Most that the ratio of times may be; `accept` holds more than the earlier commit did, so nothing is asked of it."""
NEW = "{new}"
"""Stands for a folder that is made for each run."""
GATE = ("-m", "pytest", "--circuit-report", "-q", "-p", "no:cacheprovider")
ACCEPT = ("--circuit-accept=new", "--circuit-reason", "speed", f"--circuit-baselines={NEW}", *GATE[3:])
COMMANDS = {"gate": GATE, "busy": GATE, "record": (str(WORKER), "record"), "accept": (*GATE[:2], *ACCEPT)}


@contextmanager
def worktree(revision: str) -> Iterator[Path]:
    """The project as it was at a revision."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "earlier"
        subprocess.run(["git", "-C", str(HERE), "worktree", "add", "-q", "--detach", str(path), revision], check=True)
        try:
            yield path
        finally:
            subprocess.run(["git", "-C", str(HERE), "worktree", "remove", "--force", str(path)], check=True)


@contextmanager
def busy_core(wanted: bool) -> Iterator[None]:
    """A process that keeps one core busy, for as long as the block runs."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if wanted else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def run(command: tuple[str, ...], where: Path) -> dict[str, float]:
    """Seconds, CPU seconds and peak memory of one command in a checkout; the largest process's, and of all together."""
    # As a user's: whoever runs this may have switched off what Python keeps compiled.
    environment = {**os.environ, "PYTHONPATH": str(where), "PYTHONDONTWRITEBYTECODE": ""}
    with tempfile.TemporaryDirectory() as folder:
        arguments = [argument.replace(NEW, folder) for argument in command]
        start, before = time.perf_counter(), os.times()
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=where, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        peak = watched(process)
        said, _ = process.communicate()
    seconds, after = time.perf_counter() - start, os.times()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} in {where} failed:\n{said.decode()[-2000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": seconds, "cpu": cpu, **peak()}


def compare(job: str, earlier: Path, rounds: int) -> dict[str, Any]:
    """Medians of both sides, which take turns, and their ratios."""
    found: dict[str, list[dict[str, float]]] = {"now": [], "earlier": []}
    with busy_core(job == "busy"):
        for _ in range(rounds):
            for side, where in (("now", HERE), ("earlier", earlier)):
                found[side].append(run(COMMANDS[job], where))
                print(job, side, found[side][-1], file=sys.stderr)
    medians = {
        side: {name: statistics.median(row[name] for row in rows) for name in rows[0]} for side, rows in found.items()
    }
    ratios = {name: medians["now"][name] / medians["earlier"][name] for name in medians["now"]}
    return {"rows": found, "medians": medians, "ratios": ratios, "to_reach": TARGETS.get(job)}


def passes(shape: str) -> dict[str, Any]:
    """Cost of recording and of gating in clean passes; `gate_speed_worker` says of what."""
    command = [sys.executable, str(WORKER), "passes", shape]
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    """Measures what is asked for and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="*", choices=[*COMMANDS, "passes", []], help="all by default")
    parser.add_argument("--against", default="00d8ab2", metavar="REV", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="of each side (default: %(default)s)")
    parser.add_argument("--shapes", nargs="*", default=["pythia-70m"], help="for passes (default: pythia-70m)")
    parser.add_argument("--json", type=Path, help="where all figures go")
    options = parser.parse_args()
    jobs, found = options.jobs or [*COMMANDS, "passes"], dict[str, Any]()
    with worktree(options.against) as earlier:
        for job in jobs:
            if job != "passes":
                found[job] = compare(job, earlier, options.rounds)
                ratios = ", ".join(f"{name} {value:.2f}" for name, value in found[job]["ratios"].items())
                print(f"{job}: times those of {options.against}: {ratios} (seconds to reach: {TARGETS.get(job, '-')})")
    if "passes" in jobs:
        found["passes"] = {shape: passes(shape) for shape in options.shapes}
        for shape, counts in found["passes"].items():
            print(f"{shape}, in clean passes: " + ", ".join(f"{name} {value:.1f}" for name, value in counts.items()))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
