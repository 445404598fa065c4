"""Calling into a library that may end its whole process on a file that it does not like: in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from circuitcheck.core.errors import CircuitcheckError, ModelError
from circuitcheck.core.people import plain
from circuitcheck.core.phrases import first_lines, shortened

SECONDS = 600.0
"""How long a call may take, if not told otherwise."""

MOST_SAID = 2**16
"""Bytes at the end of what a process wrote in which the reason is looked for."""

_MAIN = "import sys; sys.path[:] = sys.argv[3:]; from circuitcheck.runtimes.child import main; main(*sys.argv[1:3])"


def call_in_child(
    function: str, arguments: Mapping[str, Any], what: str, *, seconds: float = SECONDS, memory: int | None = None
) -> Any:
    """What a function returns in a process of its own.

    Args:
        function: `package.module:function`, of ours; takes and returns what JSON can say.
        arguments: by keyword.
        what: that it reads, in messages.
        seconds: after which it is ended.
        memory: bytes of address space that the process may have, where the system can be told; any by default.

    Raises:
        ModelError: it raised, took too long, or its process ended otherwise; says with which signal or last words.
    """
    with tempfile.TemporaryDirectory(prefix="circuitcheck-") as folder:
        answer, said = Path(folder) / "answer.json", Path(folder) / "said"
        asked = json.dumps({"function": function, "arguments": dict(arguments), "memory": memory})
        # With this process's own path, and so with its packages.
        command = [sys.executable, "-c", _MAIN, asked, str(answer), *sys.path]
        try:
            with said.open("wb") as stream:
                done = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, timeout=seconds, check=False
                )
        except subprocess.TimeoutExpired as error:
            raise ModelError(f"{what} was not read in {seconds:g} seconds, and was given up.") from error
        found = _answer(answer)
        if done.returncode == 0 and "result" in found:
            return found["result"]
        if "error" in found:
            raise ModelError(str(found["error"]))
        raise ModelError(
            f"{what} ends the process that reads it ({_ending(done.returncode)}): {_last_words(said)} It is damaged, "
            "or not made for the installed version of the library."
        )


def _answer(file: Path) -> dict[str, Any]:
    """What the process has to say; empty where it was ended before or while it said so."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _ending(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"


def _last_words(file: Path) -> str:
    """The last line that it wrote, which in most libraries is the reason."""
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - MOST_SAID))
        lines = [plain(line) for line in stream.read().decode("utf-8", "replace").splitlines()]
    said = [line for line in lines if line]
    return f"its last words were {shortened(said[-1], 200)}." if said else "it said nothing."


def main(asked: str, answer: str) -> None:
    """Calls what is asked for, and writes what came of it as JSON; the child's side.

    Args:
        asked: function, arguments and memory, as JSON.
        answer: file for the result.
    """
    task = json.loads(asked)
    if task["memory"] is not None:
        _limit_memory(task["memory"])
    module, name = task["function"].split(":")
    try:
        found = {"result": getattr(import_module(module), name)(**task["arguments"])}
    except CircuitcheckError as error:
        found = {"error": str(error)}
    except Exception as error:  # noqa: BLE001 - libraries raise their own
        found = {"error": f"{type(error).__name__}: {first_lines(error)}"}
    Path(answer).write_text(json.dumps(found), encoding="utf-8")


def _limit_memory(most: int) -> None:
    try:
        import resource
    except ImportError:  # not on this system
        return
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
