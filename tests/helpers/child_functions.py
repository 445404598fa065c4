"""Functions that end in many ways, light to import; for processes of their own."""

from __future__ import annotations

import os
import sys
import time

from circuitcheck.core.errors import ModelError


def add(first: int, second: int) -> dict[str, int]:
    sys.stdout.write("a library that talks")
    return {"sum": first + second}


def end(how: str) -> None:
    sys.stderr.write("\nGGML_ASSERT(\x1b[31m no )\n")
    sys.stderr.flush()
    if how == "abort":
        os.abort()
    if how == "exit":
        os._exit(3)
    if how == "error":
        raise ModelError("it is no model.")
    if how == "other":
        raise KeyError("bad key")
    time.sleep(60)


def grow() -> int:
    return len(bytearray(2**34))
