"""Several processes for one run: small models use one thread each, and their cases are spread over the cores.

While this process measures the cases, or makes their baselines, from the first on, others begin at the end, and all of
them leave what they find in the store of the run. One that is lost costs nothing but its case, which the process
that needs it measures.

Where that is safe, the others are copies of this process, made when it has imported and loaded what all of them need:
imports are then paid for once, and lie in memory once.
"""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from circuitcheck.core.candidates import EMBEDDED, GGUF, ONNX, PRECISIONS, split_variant
from circuitcheck.plugin.cases import Case
from circuitcheck.plugin.progress_bars import shows_nothing
from circuitcheck.plugin.settings import Settings
from circuitcheck.plugin.store import Store

SMALL = 32 * 2**20
"""Bytes of weights up to which a second thread gains little, and a copy of the model costs little beside a process's
libraries: the embedded model's whole gate was 1.25 times as fast with two threads."""

CASES = 3
"""Fewest cases for which another process is started: one that is no copy imports for as long as these take."""

WEIGHTS = (".safetensors", ".bin", GGUF, ONNX)

WAIT = "OMP_WAIT_POLICY"

ARRAY_THREADS = "OPENBLAS_NUM_THREADS"
"""Of numpy's products, which are small here; its threads wait awake, and would do so on the others' cores."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", ARRAY_THREADS), "1")

THREADS = Path("/proc/self/task")
"""One entry a thread, where the system is Linux."""

SHARED = ("onnxruntime", "llama_cpp", "ray")
"""Libraries whose sessions, contexts and connections a copy of a process must not use."""

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


def can_be_copied() -> bool:
    """Whether a copy of this process can go on by itself: no thread is there to hold a lock for ever, and no device."""
    torch = sys.modules.get("torch")
    is_on_a_device = torch is not None and torch.cuda.is_initialized()
    is_alone = THREADS.is_dir() and len([*THREADS.iterdir()]) == 1
    return is_alone and not is_on_a_device and not sys.modules.keys() & {*SHARED}


class Others:
    """The other processes of a run, ended with it.

    Args:
        settings: what the run is to do.
        store: where the results of all its processes lie.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._ends: list[Callable[[], object]] = []

    def start(self, cases: Sequence[Case], count: int, load: Callable[[], object]) -> None:
        """Starts `count` processes that measure cases, as `measure` does.

        Args:
            cases: what they may measure.
            count: how many of them.
            load: imports and loads what copies of this process are to have.
        """
        if not count:
            return
        if "numpy" not in sys.modules:
            os.environ.setdefault(ARRAY_THREADS, "1")
        is_copied = can_be_copied()
        if is_copied:
            load()
            is_copied = can_be_copied()  # loading may have started threads
        (self._copy if is_copied else self._launch)(cases, count)

    def _copy(self, cases: Sequence[Case], count: int) -> None:
        from multiprocessing import get_context

        # What is there stays, and whoever looked for garbage among it would write to pages that all of them share. Once
        # in a process: what earlier runs in it have left is garbage.
        if not gc.get_freeze_count():
            gc.freeze()
        given = (self._settings, self._store.directory, cases, count + 1, os.getpid())
        for _ in range(count):
            process = get_context("fork").Process(target=_measure_unseen, args=given, daemon=True)
            process.start()
            self._ends += [process.kill, process.join]

    def _launch(self, cases: Sequence[Case], count: int) -> None:
        # Nothing that only the report is held against, which may be large.
        given = pickle.dumps((replace(self._settings, compare=None), self._store.directory, cases, count + 1))
        command, environment = [sys.executable, "-c", _MAIN, *sys.path], os.environ | ONE_THREAD
        for _ in range(count):
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
            self._ends += [process.kill, process.wait]
            assert process.stdin is not None
            try:
                with process.stdin as stream:
                    stream.write(given)
            except OSError:  # it ended at once, and this process does all
                continue

    def close(self) -> None:
        """Ends them, whatever they are at."""
        for end in self._ends:
            end()
        self._ends.clear()


def main() -> None:
    """Measures what it is given on standard input, until nothing is left or the process that gave it has ended."""
    parent = os.getppid()
    settings, directory, cases, processes = pickle.load(sys.stdin.buffer)
    measure(settings, directory, cases, processes, parent)


def measure(settings: Settings, directory: Path, cases: Sequence[Case], processes: int, parent: int) -> None:
    """Measures cases that nobody measures yet, for as long as the parent lives.

    The last candidate's first, whose kernels are then kept by one process, and of a candidate's the longest: what is
    left when others end is short.
    """
    from circuitcheck.plugin.session import GateSession

    session = GateSession(settings, Store(directory), shows_nothing, processes)
    places = {case.candidate: place for place, case in enumerate(cases)}
    for case in sorted(cases, key=lambda case: (places[case.candidate], session.tokens_of(case)), reverse=True):
        if os.getppid() != parent:
            return
        session.do_if_free(case)


def _measure_unseen(*given: Any) -> None:
    """The same in a copy of a process, whose output is that process's."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    # What breaks here is told by the process that measures the case in its place.
    with suppress(Exception):
        measure(*given)
