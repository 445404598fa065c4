"""Writers that are killed, and writers and readers side by side."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

import gate_folder
import pytest
import synthetic

from attacks.attempts import Tally
from circuitcheck import Baseline
from circuitcheck.baseline.atomic import COMMITTED, writing
from circuitcheck.baseline.baseline import save_all
from circuitcheck.core.errors import CircuitcheckError

NAMES = ("one", "two", "three")
WITHOUT = (
    "-p",
    "no:benchmark",
    "-p",
    "no:hypothesispytest",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:xdist",
    "--assert=plain",
    "-q",
)
KNOWN = {
    **dict.fromkeys(("0", "old"), "unchanged"),
    **dict.fromkeys(("1", "new"), "loaded (new)"),
    "half done": "loaded (finished by the next writer)",
}
"""What a kill may leave: everything old, everything new, or what a reader is told of and the next writer finishes."""


def of_seed(seed: int) -> list[Baseline]:
    """Baselines that say which recording they are of, in their JSON and in their arrays."""
    return [synthetic.make_baseline(seed=seed, task=synthetic.make_task(name=name), reason=str(seed)) for name in NAMES]


def state(folder: Path) -> str:
    """Which recording all baselines are of; `mixed`, `lost`, or `half done` where a reader is told so."""
    if (folder / COMMITTED).exists():
        return "half done"
    try:
        reasons = {Baseline.load(file).reason for file in folder.glob("*.json")}
    except CircuitcheckError as error:
        return f"lost: {error}"
    return reasons.pop() if len(reasons) == 1 else "mixed"


def attack_saves(kills: int, seed: int = 0) -> Tally:
    """Kills of a process that does nothing but save three baselines over three others."""
    folder = Path(mkdtemp(prefix="attack-"))
    old, new = of_seed(0), of_seed(1)
    save_all(old, folder)
    took = timed(lambda: save_all(new, folder))
    tally, chance = Tally("kills of a save"), random.Random(seed)
    for _ in range(kills):
        save_all(old, folder)
        kill(lambda: save_all(new, folder), chance.uniform(0, 1.2 * took))
        _note(tally, folder)
    return tally


def attack_accepts(kills: int, seed: int = 0) -> Tally:
    """Kills of a whole `pytest --circuit-accept=all` of two tasks, whose reference has changed."""
    folder = Path(mkdtemp(prefix="attack-"))
    gate_folder.build(folder)
    shutil.rmtree(folder / "baselines")
    (folder / "test_gate.py").write_text(gate_folder.GATE_TESTS)
    tables = '[tool.circuitcheck]\nmodel = "model"\ncandidates = ["f16"]\ntasks = ["ioi.jsonl", "facts.jsonl"]\n'
    (folder / "pyproject.toml").write_text('[tool.pytest.ini_options]\nfilterwarnings = ["error"]\n' + tables)
    baselines, kept = folder / "baselines" / "model", folder / "kept"
    gate_folder.save_model(gate_folder.random_model(), folder / "model")
    accepting = partial(accept, folder)
    in_child(lambda: accepting("old"))
    shutil.copytree(baselines, kept)
    gate_folder.save_model(gate_folder.random_model(seed=1), folder / "model")
    took = timed(lambda: in_child(lambda: accepting("new")))
    tally, chance = Tally("kills of --circuit-accept=all"), random.Random(seed)
    assert state(kept) == "old", state(kept)
    assert state(baselines) == "new", state(baselines)
    for _ in range(kills):
        shutil.rmtree(baselines)
        shutil.copytree(kept, baselines)
        kill(lambda: accepting("new"), chance.uniform(0, 1.05 * took))
        _note(tally, baselines)
    return tally


def accept(folder: Path, reason: str, *options: str) -> None:
    """Records the baselines of a gate folder, in a process that has nothing else to do."""
    os.chdir(folder)
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    pytest.main(
        [
            *WITHOUT,
            "--circuit-accept=all",
            "--circuit-accept-in-ci",
            f"--circuit-reason={reason}",
            *options,
            "test_gate.py",
        ]
    )


def _note(tally: Tally, folder: Path) -> None:
    """What a kill left, and what the next writer makes of it."""
    found = state(folder)
    if found == "half done":
        with writing(folder):
            pass
        after = state(folder)
        found = found if after in KNOWN else after
    tally.note(KNOWN.get(found, found), found)


def attack_races(seconds: float, writers: int = 4, readers: int = 4) -> Tally:
    """Writers and readers of the same three baselines, side by side."""
    folder = Path(mkdtemp(prefix="attack-"))
    save_all(of_seed(0), folder)
    end, pipes, children = time.time() + seconds, [], []
    for number in range(writers + readers):
        receiver, sender = os.pipe()
        child = os.fork()
        if not child:
            os.close(receiver)
            work = partial(_write, number) if number < writers else _read
            os.write(sender, work(folder, end).encode())
            os._exit(0)
        os.close(sender)
        pipes.append(receiver)
        children.append(child)
    tally = Tally(f"{writers} writers and {readers} readers")
    for child, pipe in zip(children, pipes, strict=True):
        os.waitpid(child, 0)
        words = os.read(pipe, 10**6).decode().split("\n")
        for word in filter(None, words):
            name, count = word.rsplit("=", 1)
            tally.counts[name] += int(count)
        if not any(words):
            tally.note("dies")
    return tally


def _write(number: int, folder: Path, end: float) -> str:
    done, failed, made = 0, set(), [of_seed(seed) for seed in range(number, number + 3)]
    while time.time() < end:
        try:
            save_all(made[done % 3], folder)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not be
            failed.add(f"write {type(error).__name__} {str(error)[:200]}=1")
        done += 1
    return "\n".join([f"loaded (writes)={done}", *failed])


def _read(folder: Path, end: float) -> str:
    counts = {"loaded (reads)": 0}
    expected = {str(seed): of_seed(seed)[0].metric.tobytes() for seed in range(10)}
    while time.time() < end:
        for name in NAMES:
            try:
                loaded = Baseline.load(folder / f"{name}.json")
                word = "loaded (reads)" if loaded.metric.tobytes() == expected[loaded.reason] else "mixed"
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not be
                word = f"read {type(error).__name__} {str(error)[:200]}".replace("\n", " ")
            counts[word] = counts.get(word, 0) + 1
    return "\n".join(f"{word}={count}" for word, count in counts.items())


def timed(work: Callable[[], object]) -> float:
    """Seconds that something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_child(work: Callable[[], object]) -> None:
    """Something in a process of its own, to its end."""
    _end(_fork(work))


def kill(work: Callable[[], object], after: float) -> None:
    """Something in a process of its own, which is killed after so many seconds."""
    child = _fork(work)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _end(child)


def _fork(work: Callable[[], object]) -> int:
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return child


def _end(child: int) -> None:
    os.waitpid(child, 0)
