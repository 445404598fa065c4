"""Reading files that strangers may have made: bounded in size, and never a device or a pipe."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_bounded(file: Path, most: int) -> bytes:
    """A regular file's content; links are followed.

    Args:
        file: the file.
        most: bytes that it may have; nothing of a larger one is read.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger.
    """
    # A pipe without a writer would block when it is opened.
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as stream:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(file))
        if found.st_size > most:
            raise OSError(errno.EFBIG, f"it has {found.st_size} bytes, and at most {most} are read", str(file))
        return stream.read(most)
