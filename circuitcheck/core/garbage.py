"""When Python looks for garbage."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collecting() -> Iterator[None]:
    """Lets no garbage be collected for as long as the block runs, as while libraries are imported.

    They make hundreds of thousands of objects that stay. To look through them for garbage, time and again, was a fifth
    of what importing torch and transformers takes, and afterwards they would all be looked through as if they were new.
    """
    was_enabled, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before and not gc.get_freeze_count():
            # To and fro, which makes everything old at once, and looks at nothing.
            gc.freeze()
            gc.unfreeze()
        if was_enabled:
            gc.enable()
