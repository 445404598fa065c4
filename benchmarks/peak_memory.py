"""Peak memory of a process and all that it starts, read from Linux's /proc while they run."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

STEP = 1.0
"""Seconds between two looks, which take time that the processes have not, where they use every core."""


def watched(process: subprocess.Popen[bytes]) -> Callable[[], dict[str, float]]:
    """Looks at a process until it ends.

    Returns:
        A function that gives, once it has ended, in bytes: `memory`, the largest sum of what all its processes held,
        shared pages divided among those that share them, and `largest`, the most that one of them held, shared or not.
    """
    peak, has_ended = {"memory": 0.0, "largest": 0.0}, threading.Event()

    def look() -> None:
        while not has_ended.wait(STEP):
            held = [_held(pid) for pid in _family(process.pid)]
            peak["memory"] = max(peak["memory"], sum(share for share, _ in held))
            peak["largest"] = max(peak["largest"], max((whole for _, whole in held), default=0))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()

    def ended() -> dict[str, float]:
        has_ended.set()
        thread.join()
        return peak

    return ended


def _family(pid: int) -> list[int]:
    """A process and its descendants that are alive."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:  # it has just ended
                continue
    return found


def _held(pid: int) -> tuple[int, int]:
    """Proportional and resident size of a process in bytes; none of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
    return sizes.get("Pss", 0), sizes.get("Rss", 0)
