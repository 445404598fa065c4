"""Several processes for one run: small models use one thread each, and their cases are spread over the cores.

While this process measures the cases, or makes their baselines, from the first on, others begin with the last, and all
of them leave what they find in the store of the run. One that is lost costs nothing but its case, which the process
that needs it measures.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from circuitcheck.core.candidates import EMBEDDED, GGUF, ONNX, PRECISIONS, split_variant
from circuitcheck.plugin.cases import Case
from circuitcheck.plugin.progress_bars import shows_nothing
from circuitcheck.plugin.settings import Settings
from circuitcheck.plugin.store import Store

SMALL = 32 * 2**20
"""Bytes of weights up to which a second thread gains little, and a copy of the model costs little beside a process's
libraries: the embedded model's whole gate was 1.25 times as fast with two threads."""

CASES = 3
"""Fewest cases for which another process is started: before it measures, it imports for as long as one takes."""

WEIGHTS = (".safetensors", ".bin", GGUF, ONNX)

WAIT = "OMP_WAIT_POLICY"

ARRAY_THREADS = "OPENBLAS_NUM_THREADS"
"""Of numpy's products, which are small here; its threads wait awake, and would do so on the others' cores."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", ARRAY_THREADS), "1")

_MAIN = "import sys; sys.path[:] = sys.argv[1:]; from circuitcheck.plugin.side_by_side import main; main()"


def wait_passively() -> None:
    """Lets threads that wait for each other sleep, where torch is not loaded yet; a variable that is set stays.

    By default OpenMP's threads spin, and on a machine that does anything else the one that is waited for gets no core:
    a gate beside one busy process took several times as long.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault(WAIT, "PASSIVE")


def cores() -> int:
    """How many processes of one thread may compute: as many as torch has threads, without loading it to ask.

    The others load it while this process does, and would wait for seconds.
    """
    if torch := sys.modules.get("torch"):
        return int(torch.get_num_threads())
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit():
        return max(1, int(given))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def are_small(settings: Settings) -> bool:
    """Whether all models of a run are at hand, run on the CPU, and are small enough for one thread each."""
    named = [settings.model, *(split_variant(spec)[0] for spec in settings.candidates if spec not in PRECISIONS)]
    is_plain = settings.device in ("auto", "cpu") and settings.device_map is None
    return is_plain and all(name == EMBEDDED or 0 < _bytes(name) <= SMALL for name in named)


def _bytes(name: str) -> int:
    """Bytes of a model's weights; 0 where it is not here."""
    path = Path(name)
    files = path.rglob("*") if path.is_dir() else [path]
    try:
        return sum(file.stat().st_size for file in files if file.suffix in WEIGHTS)
    except OSError:
        return 0


class Others:
    """The other processes of a run, ended with it.

    Args:
        settings: what the run is to do.
        store: where the results of all its processes lie.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, cases: Sequence[Case], count: int) -> None:
        """Starts `count` processes that measure cases, the last ones first."""
        if not count:
            return
        # Nothing that only the report is held against, which may be large.
        given = pickle.dumps((replace(self._settings, compare=None), str(self._store.directory), cases, count + 1))
        command, environment = [sys.executable, "-c", _MAIN, *sys.path], os.environ | ONE_THREAD
        if "numpy" not in sys.modules:
            os.environ.setdefault(ARRAY_THREADS, "1")
        for _ in range(count):
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
            self._running.append(process)
            assert process.stdin is not None
            try:
                with process.stdin as stream:
                    stream.write(given)
            except OSError:  # it ended at once, and this process does all
                continue

    def close(self) -> None:
        """Ends them, whatever they are at."""
        for process in self._running:
            process.kill()
            process.wait()
        self._running.clear()


def main() -> None:
    """Measures what it is given on standard input, until nothing is left or the process that gave it has ended."""
    from circuitcheck.plugin.session import GateSession

    parent = os.getppid()
    settings, directory, cases, processes = pickle.load(sys.stdin.buffer)
    session = GateSession(settings, Store(Path(directory)), shows_nothing, processes)
    for case in reversed(cases):
        if os.getppid() != parent:
            return
        session.do_if_free(case)
