"""Loading a file for the first time, in a process that llama.cpp may end."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from circuitcheck.core.errors import ModelError
from circuitcheck.core.people import plain
from circuitcheck.core.phrases import shortened
from circuitcheck.runtimes.child import call_in_child
from circuitcheck.runtimes.llamacpp.binding import load_binding
from circuitcheck.runtimes.llamacpp.cache_types import CacheType

ROWS, TOKENS = 2, 4
"""Of the pass that is tried."""

ERROR_LEVEL = 4
"""llama.cpp's number of it."""

ROOM, TIMES = 2**32, 4
"""Bytes of address space that the process may have: so many, and so many times the size of the file."""

SECONDS, BYTES_A_SECOND = 60.0, 1e7
"""How long it may take: so many seconds, and one more for so many bytes."""


def try_file(file: Path, cache: CacheType, name: str) -> None:
    """Loads a file and decodes a few tokens in a process of its own.

    Raises:
        ModelError: llama.cpp refuses it, or it ends the process.
    """
    size = file.stat().st_size
    call_in_child(
        f"{__name__}:load_and_run",
        {"file": str(file), "cache": cache.name, "name": name},
        name,
        seconds=SECONDS + size / BYTES_A_SECOND,
        memory=ROOM + TIMES * size,
    )


def load_and_run(file: str, cache: str, name: str) -> dict[str, Any]:
    """The child's side of `try_file`.

    Raises:
        ModelError: says what llama.cpp said last.
    """
    import numpy as np

    from circuitcheck.runtimes.llamacpp.decoding import Decoder, LoadedModel

    os.environ["GGML_NO_BACKTRACE"] = "1"  # a debugger would have the last word
    said: list[str] = []
    binding = load_binding()

    def listen(level: int, text: bytes, _: Any) -> None:
        if level == ERROR_LEVEL:
            said.append(plain(text.decode(errors="replace")))

    callbacks = [binding.llama.llama_log_callback(listener) for listener in (listen, _say_nothing)]
    binding.llama.llama_log_set(callbacks[0], None)
    try:
        model = LoadedModel(binding, Path(file), name)
        with Decoder(model, CacheType(cache), ROWS, TOKENS, 1) as decoder:
            ids = np.arange(ROWS * TOKENS, dtype=np.int64).reshape(ROWS, TOKENS) % model.vocabulary
            logits = decoder.run(ids)
        model.close()
    except Exception as error:
        # The first error is the reason; what follows says that loading failed.
        words = f" It said: {shortened(said[0], 300)}" if said else ""
        raise ModelError(f"{error}{words}") from error
    finally:
        # The library keeps it for as long as this process lives, and so must we.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(callbacks[1]))
        binding.llama.llama_log_set(callbacks[1], None)
    return {"vocabulary": int(logits.shape[1])}


def _say_nothing(*_: Any) -> None:
    """For what is said while the process ends."""
