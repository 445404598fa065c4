"""Files that are either whole or not there, however a writer ends, and whoever reads or writes beside it.

Everything is got ready in a directory beside its target. What belongs together is decided by one rename of that
directory: from then on whoever writes next puts in place what a killed writer could not, and readers can tell. Nothing
is ever read from there, because no reviewer would look there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import EISDIR
from pathlib import Path

from filelock import FileLock

PREFIX = ".circuitcheck-"
LOCK, COMMITTED = f"{PREFIX}lock", f"{PREFIX}committed"


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """One writer at a time; what killed ones left is finished or swept before and after.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCK):
        try:
            if is_half_done(folder):
                _put_in_place(folder / COMMITTED)
            _sweep(folder)
            yield
        finally:
            _sweep(folder)
            with suppress(OSError):  # Windows keeps what is open
                (folder / LOCK).unlink()


def write_atomically(files: Mapping[Path, bytes]) -> None:
    """Writes files, each of which is then new or as it was.

    Raises:
        OSError: one cannot be written.
    """
    for file, content in files.items():
        with writing(file.parent):
            write_staged(file, content)


def write_staged(file: Path, content: bytes) -> None:
    """Writes one file, which is then new or as it was; only inside of `writing` its folder.

    Raises:
        OSError: it cannot be written.
    """
    _put_in_place(_staged(file.parent, {file.name: content}))


def write_together(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files of one folder, all or none, as `is_half_done` tells; only inside of `writing(folder)`.

    Args:
        folder: where.
        files: name to content.

    Raises:
        OSError: nothing was written; or, where a target is in the way of its own replacement, not all is in place.
    """
    for name in files:
        if (folder / name).is_dir():
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR), str(folder / name))
    stage = _staged(folder, files)
    if len(files) > 1:
        stage = stage.replace(folder / COMMITTED)
    _put_in_place(stage)


def is_half_done(folder: Path) -> bool:
    """Whether files that belong together are being put in place just now, or a killed writer left some to do."""
    return (folder / COMMITTED).exists()


def _staged(folder: Path, files: Mapping[str, bytes]) -> Path:
    """A directory of files that are flushed to disk."""
    stage = Path(tempfile.mkdtemp(dir=folder, prefix=PREFIX))
    stage.chmod(0o755)
    for name, content in files.items():
        with (stage / name).open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        (stage / name).chmod(0o644)
    return stage


def _put_in_place(stage: Path) -> None:
    for file in sorted(stage.iterdir()):
        file.replace(stage.parent / file.name)
    stage.rmdir()


def _sweep(folder: Path) -> None:
    """Removes what no writer needs any more; the lock is held, so none is at work."""
    for left in folder.glob(f"{PREFIX}*"):
        if left.is_dir() and left.name != COMMITTED:
            shutil.rmtree(left, ignore_errors=True)
