"""Where the time of a whole recording, calibration or gate goes: `python benchmarks/profile_gate.py [WHAT ...]`.

Samples the processor with py-spy (`pip install py-spy`), in one process of one thread, and prints for each of our
functions the share of all samples in which it was on the stack, and what is imported on the way. `record`, `calibrate`
and `gate` are of the embedded model as users run them; the name of a shape (`pythia-70m`, `pythia-160m`) is recording
and gating there, by `gate_speed_worker.py`, which also prints what that costs in clean passes.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from shapes import SHAPES

HERE = Path(__file__).parents[1]
WORKER = Path(__file__).with_name("gate_speed_worker.py")
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
GATES = {
    "record": (*PYTEST, "--circuit-accept=all", "--circuit-reason", "profile"),
    "calibrate": (*PYTEST, "--circuit-calibrate"),
    "gate": (*PYTEST, "--circuit-report"),
}
SAMPLES = 100
"""A second."""

OURS, IMPORTING = "circuitcheck/", "<frozen importlib"


def sampled(arguments: Iterable[str], raw: Path) -> str:
    """Runs Python under py-spy, which leaves one line for each stack that it saw, and how often; what it printed."""
    command = ["py-spy", "record", "-r", str(SAMPLES), "-f", "raw", "-o", str(raw), "--", sys.executable, *arguments]
    if shutil.which("py-spy") is None:
        raise SystemExit("There is no py-spy here: pip install py-spy")
    variables = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, cwd=HERE, env=variables, capture_output=True, text=True)
    if done.returncode or not raw.is_file():
        raise SystemExit(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def shares(lines: Iterable[str]) -> tuple[int, dict[str, float]]:
    """How many samples there were, and the share of them in which each of our functions, or an import, was under way.

    Args:
        lines: as py-spy's raw format has them: frames from the outermost to the innermost, and how often.
    """
    total, seen = 0, Counter[str]()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        total += int(count)
        frames = stack.split(";")
        # Importing runs our modules, too; that is no part of the pipeline.
        first = next((at for at, frame in enumerate(frames) if IMPORTING in frame), len(frames))
        names = {re.sub(r":\d+\)$", ")", frame) for frame in frames[:first] if OURS in frame}
        for name in names | ({"(imports)"} if first < len(frames) else set()):
            seen[name] += int(count)
    return total, {name: count / total for name, count in seen.most_common()}


def profile(what: str, rows: int) -> None:
    """Prints the table of one."""
    with TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        arguments = GATES.get(what, (str(WORKER), "passes", what))
        if what in ("record", "calibrate"):  # what it writes is thrown away
            baselines = Path(folder) / "baselines"
            shutil.copytree(HERE / "baselines", baselines)
            arguments = (*arguments, f"--circuit-baselines={baselines}")
        said = sampled(arguments, raw)
        total, found = shares(raw.read_text().splitlines())
    print(f"\n{what}: {total / SAMPLES:.0f} s")
    if what not in GATES:
        print(said.strip())
    for name, share in list(found.items())[:rows]:
        print(f"{share:6.1%}  {name}")


def main() -> None:
    """Profiles what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[*GATES, *SHAPES, []], help="all of the embedded model by default")
    parser.add_argument("--rows", type=int, default=40, help="how many functions (default: %(default)s)")
    options = parser.parse_args()
    for what in options.what or GATES:
        profile(what, options.rows)


if __name__ == "__main__":
    main()
