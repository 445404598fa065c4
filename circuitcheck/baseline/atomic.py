"""Files that are either whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomically(files: dict[Path, bytes]) -> None:
    """Writes all files, or leaves what was there: temporary files first, flushed to disk, then renamed in order.

    Args:
        files: target to content; the last one is renamed last, so let it be the one that vouches for the others.
    """
    prepared: list[tuple[str, Path]] = []
    try:
        for target, content in files.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
            prepared.append((temporary, target))
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(0o644)
        for temporary, target in prepared:
            Path(temporary).replace(target)
    finally:
        for temporary, _ in prepared:
            Path(temporary).unlink(missing_ok=True)
