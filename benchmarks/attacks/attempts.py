"""Many attempts of one kind in a process of its own, with limits on time, memory and words."""

from __future__ import annotations

import multiprocessing
import random
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from circuitcheck.core.errors import CircuitcheckError

SECONDS, MEBIBYTES, LETTERS = 10, 1024, 25_000
"""Limits of one attempt: its time, what the process may grow by, and the letters of a message."""

PATIENCE = 60
"""Seconds after which a process that cannot be interrupted is taken for hanging."""

WARM = 3
"""Attempts that only fill caches, and are not counted."""

GOOD = ("refused", "unchanged", "shown", "loaded")
SHOWN = 5

Attempt = Callable[[random.Random], str]


@dataclass
class Tally:
    """What became of the attempts of one kind.

    Attributes:
        kind: what was attacked.
        counts: outcome to how often.
        examples: of each outcome that must not be, the first few.
        slowest: seconds.
        mebibytes: what the process grew by.
    """

    kind: str
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    slowest: float = 0.0
    mebibytes: float = 0.0

    @property
    def faults(self) -> dict[str, int]:
        """Outcomes that must not be."""
        return {word: count for word, count in self.counts.items() if not word.startswith(GOOD)}

    def note(self, word: str, example: str = "") -> None:
        """Counts an outcome."""
        self.counts[word] += 1
        if not word.startswith(GOOD) and len(self.examples.setdefault(word, [])) < SHOWN:
            self.examples[word].append(example)


class TooLong(BaseException):
    """Raised in an attempt that takes more than its time."""


def attempts(kind: str, make: Callable[[], Attempt], times: int, seed: int = 0) -> Tally:
    """Runs attempts one after the other in a child, which is watched.

    Args:
        kind: what is attacked.
        make: gets ready what is attacked, in the child, and gives an attempt: from chance to an outcome. An error of
            circuitcheck's own is the outcome `refused`.
        times: how many.
        seed: same seed, same attempts.
    """
    context = multiprocessing.get_context("fork")
    beat, (receiver, sender) = context.Array("d", [time.time(), -1]), context.Pipe(duplex=False)
    child = context.Process(target=_attempts, args=(kind, make, times, seed, beat, sender))
    child.start()
    sender.close()
    tally = Tally(kind)
    while not receiver.poll(1):
        if time.time() - beat[0] > PATIENCE:
            tally.note("hangs", f"attempt {beat[1]:.0f} of seed {seed}")
            child.kill()
            break
    else:
        try:
            tally = receiver.recv()
        except EOFError:  # it ended before it could tell
            tally.note("dies", f"attempt {beat[1]:.0f} of seed {seed}")
    child.join()
    return tally


def _attempts(kind: str, make: Callable[[], Attempt], times: int, seed: int, beat: Any, sender: Any) -> None:
    def interrupt(*_: object) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, interrupt)
    attempt, tally = make(), Tally(kind)
    for number in range(WARM):
        _outcome(attempt, random.Random(f"warm-{number}"))
    start = memory = _peak()
    for number in range(times):
        beat[:] = [time.time(), number]
        began = time.perf_counter()
        word, example = _outcome(attempt, random.Random(f"{kind}-{seed}-{number}"))
        took, grown = time.perf_counter() - began, _peak() - memory
        tally.slowest = max(tally.slowest, took)
        if took > SECONDS and word != "slow":
            word, example = "slow", f"{took:.1f} s: {word}"
        if grown > MEBIBYTES:
            word, example, memory = "large", f"{grown:.0f} MiB: {word}", _peak()
        tally.note(word, f"attempt {number}: {example}")
    tally.mebibytes = _peak() - start
    sender.send(tally)


def _outcome(attempt: Attempt, chance: random.Random) -> tuple[str, str]:
    signal.alarm(SECONDS + 1)
    try:
        return attempt(chance), ""
    except CircuitcheckError as error:
        return ("refused", "") if len(str(error)) <= LETTERS else ("long message", f"{len(str(error))} letters")
    except TooLong:
        return "slow", "".join(traceback.format_exc().splitlines(keepends=True)[-8:])
    except BaseException as error:  # noqa: BLE001 - whatever it is, it must not be
        return f"raw {type(error).__name__}", "".join(traceback.format_exc().splitlines(keepends=True)[-8:])
    finally:
        signal.alarm(0)


def _peak() -> float:
    """The largest memory so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
