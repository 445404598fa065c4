"""A golden baseline: a recording with a place on disk."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from pathlib import Path

from circuitcheck.baseline.atomic import COMMITTED, is_half_done, write_staged, write_together, writing
from circuitcheck.baseline.encoding import DIGITS, decode, encode, other_arrays, parse
from circuitcheck.baseline.names import baseline_file
from circuitcheck.baseline.recording import Recording
from circuitcheck.core.bounded import read_bounded
from circuitcheck.core.errors import BaselineError

MOST_JSON, MOST_ARRAYS = 2**26, 2**33
"""Bytes of a baseline's files that are read and written: 64 MiB, about 250 000 units, and 8 GiB."""

ARRAY_FILE = re.compile(rf"(.+)\.[0-9a-f]{{{DIGITS}}}\.safetensors")

TRIES = 1000
"""How often a reader looks again where a writer has just swept away what the JSON named."""

LOOKS, SECONDS = 100, 0.02
"""How often, and how far apart, a reader looks whether several baselines are all in place."""


class Baseline(Recording):
    """The recorded reference circuit of one (model, task); see `Recording` for what it holds."""

    def save(self, directory: Path) -> list[Path]:
        """Writes the JSON and the safetensors file into `directory`, both or neither; see `save_all`.

        Returns:
            The files that were written.

        Raises:
            BaselineError: the directory cannot be written to.
        """
        return save_all([self], directory)

    @staticmethod
    def load(json_file: Path) -> Baseline:
        """Reads a baseline and checks every byte of it.

        Args:
            json_file: `<task>.json`; the safetensors file that it names lies beside it.

        Raises:
            BaselineError: a file is missing, truncated, corrupt, edited by hand, or called otherwise than it was
                recorded.
            StaleBaselineError: it was written under another schema.
        """
        _require_done(json_file)
        json_bytes, arrays = _read_pair(json_file)
        baseline = Baseline(**decode(json_bytes, arrays, name=str(json_file)))
        if baseline_file(json_file.parent, baseline.task.name, baseline.spec.unit) != json_file:
            raise BaselineError(
                f"golden baseline {json_file} was recorded of {baseline.spec.unit}s on the task "
                f"{baseline.task.name!r}, and is called otherwise. Restore its name, or record the reference anew."
            )
        return baseline


def save_all(baselines: Sequence[Baseline], directory: Path) -> list[Path]:
    """Writes baselines of one reference, all or none, whatever happens meanwhile.

    The arrays are content-addressed. The JSON files that name them are replaced last, together, and what nothing names
    any more is swept away.

    Returns:
        The JSON and the safetensors file of each.

    Raises:
        BaselineError: the directory cannot be written to, or a baseline cannot be kept.
    """
    json_files = [baseline_file(directory, one.task.name, one.spec.unit) for one in baselines]
    array_files, documents = [], {}
    try:
        with writing(directory):
            try:
                for one, json_file in zip(baselines, json_files, strict=True):
                    documents[json_file.name], arrays = _encoded(one, json_file)
                    array_files.append(_array_file(json_file, hashlib.sha256(arrays).hexdigest()))
                    write_staged(array_files[-1], arrays)
                write_together(directory, documents)
            finally:
                _sweep(directory)
    except OSError as error:
        names = ", ".join(map(str, json_files))
        raise BaselineError(f"golden baseline {names} cannot be written: {error.strerror or error}.") from error
    return [file for pair in zip(json_files, array_files, strict=True) for file in pair]


def _encoded(baseline: Baseline, json_file: Path) -> tuple[bytes, bytes]:
    """The files' content, which can be read again."""
    json_bytes, arrays = encode(baseline)
    if len(json_bytes) > MOST_JSON or len(arrays) > MOST_ARRAYS:
        raise BaselineError(
            f"golden baseline {json_file} would have {len(arrays)} bytes, and at most {MOST_ARRAYS} are read. Keep "
            "less of each unit: --circuit-positions=answer, or fewer prompts."
        )
    decode(json_bytes, arrays, name=str(json_file))
    return json_bytes, arrays


def _array_file(json_file: Path, sha256: str) -> Path:
    return json_file.with_name(f"{json_file.stem}.{sha256[:DIGITS]}.safetensors")


def _read_pair(json_file: Path) -> tuple[bytes, bytes]:
    """JSON and arrays that belong together, whoever writes meanwhile."""
    for _ in range(TRIES):
        json_bytes = _read(json_file, MOST_JSON)
        named = parse(json_bytes, str(json_file)).arrays
        array_file = _array_file(json_file, named.sha256)
        try:
            if array_file.is_file() and array_file.stat().st_size != named.bytes:
                raise other_arrays(str(json_file))
            return json_bytes, _read(array_file, min(named.bytes, MOST_ARRAYS))
        except (BaselineError, FileNotFoundError):
            if _read(json_file, MOST_JSON) == json_bytes:  # else a writer has just swept away what it named
                raise
    raise BaselineError(f"golden baseline {json_file} is written again and again; wait until that is over.")


def _read(file: Path, most: int) -> bytes:
    try:
        return read_bounded(file, most)
    except FileNotFoundError as error:
        raise BaselineError(f"golden baseline {file} is missing; record the reference first.") from error
    except OSError as error:
        raise BaselineError(f"golden baseline {file} cannot be read: {error.strerror or error}.") from error


def _require_done(json_file: Path) -> None:
    """Waits for a writer who puts several baselines in place, and refuses what a killed one left."""
    for _ in range(LOOKS):
        if not is_half_done(json_file.parent):
            return
        time.sleep(SECONDS)
    raise BaselineError(
        f"golden baseline {json_file} is one of several whose writer was killed while it put them in place. Accept "
        f"again, which finishes that first, or remove {json_file.parent / COMMITTED} and restore the rest from "
        "version control."
    )


def _sweep(directory: Path) -> None:
    """Removes arrays that no JSON names; nobody knows what one that is unreadable, or not yet in place, names."""
    for file in [] if is_half_done(directory) else directory.glob("*.safetensors"):
        found = ARRAY_FILE.fullmatch(file.name)
        if found and not _is_named(file, directory / f"{found[1]}.json"):
            file.unlink()


def _is_named(array_file: Path, json_file: Path) -> bool:
    try:
        return _array_file(json_file, parse(_read(json_file, MOST_JSON), str(json_file)).arrays.sha256) == array_file
    except BaselineError:
        return json_file.is_file()
