"""Finished rows on disk, so that a run that was killed goes on where it was.

A part of a patch is found by everything that its numbers depend on: the code, the model, the prompts, the patch and how
it is carried out. Only numbers are kept, never a verdict: that is judged anew from them. A file is whole or it is
measured again, and a folder belongs to one reference and one version of the code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from circuitcheck.baseline.atomic import write_atomically
from circuitcheck.core.activations import Activations
from circuitcheck.core.bounded import read_bounded
from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.features import ReadsFeatures
from circuitcheck.core.patch import Patch
from circuitcheck.core.phrases import listed
from circuitcheck.core.runtime import Part, Runtime, Work
from circuitcheck.core.strict_json import strict_json
from circuitcheck.gate.parts import Finished

OWNER = "resume.json"
"""What says whose rows a folder has."""

ROWS = "rows"
MOST_HEADER, MOST_NOTES, MOST_LETTERS = 2**16, 16, 4000
"""Bytes of what stands before the numbers of a part; notes of a part, and letters of one."""

NOT_SAID = ("name", "notes")
"""Facts of a model that change no number."""


@dataclass
class KeptRows:
    """Parts of patches in a folder.

    Attributes:
        folder: where; made when something is kept.
        code: what carries patches out, and in which versions; name to value.
        threads: how many threads compute just now.
        tell: is called with what became of each part that was looked for: `found`, `missing` or `damaged`.
    """

    folder: Path
    code: Mapping[str, str]
    threads: Callable[[], int]
    tell: Callable[[str], None]
    _owner: str = field(default="", repr=False)

    def addresses(self, model: Runtime, patch: Patch, parts: Sequence[Part], work: Work) -> list[str] | None:
        """Of each part what it is found by; None for a metric that is a function, whose code nobody knows.

        Raises:
            ConfigurationError: the folder is another reference's or another version's, or cannot be read.
        """
        facts, reference = model.facts, work.about.get("reference", "")
        if model.quantity.function is not None or not reference or not facts.fingerprints.get("weights"):
            return None
        if self._owner != reference:
            self._claim(reference)
        shared = {
            "code": dict(self.code),
            "threads": self.threads(),
            "memory": work.memory,
            "about": dict(work.about),
            "model": {name: value for name, value in asdict(facts).items() if name not in NOT_SAID},
            "dictionaries": model.fingerprints_of_dictionaries if isinstance(model, ReadsFeatures) else {},
            "metric": model.quantity.name,
            "layout": asdict(model.layout(patch.kind)),
            "kind": patch.kind,
            "values": _digest(patch.values) if isinstance(patch.values, Activations) else patch.values,
            "positions": patch.positions,
        }
        begun = hashlib.sha256(json.dumps(shared, sort_keys=True, default=str).encode())
        found = []
        for part in parts:
            rows = {
                "task": part.prompts.task.fingerprint,
                "prompts": part.prompts.index,
                "most": part.prompts.most,
                "sets": [sorted((int(place), int(index)) for place, index in patch.sets[at]) for at in part.sets],
            }
            address = begun.copy()
            address.update(json.dumps(rows, sort_keys=True).encode())
            found.append(address.hexdigest())
        return found

    def find(self, address: str, shape: tuple[int, int]) -> Finished | None:
        """What is kept of a part; None where nothing is, or nothing that is whole.

        Raises:
            ConfigurationError: there is something, and it cannot be read.
        """
        file = self._file(address)
        try:
            content = read_bounded(file, MOST_HEADER + 4 * shape[0] * shape[1])
        except (FileNotFoundError, NotADirectoryError):
            self.tell("missing")
            return None
        except OSError:  # larger than it can be, no file, or a bad sector
            self.tell("damaged")
            return None
        try:
            found = _decoded(content, address, shape)
        except (ValueError, KeyError, TypeError):
            self.tell("damaged")
            return None
        self.tell("found")
        return found

    def keep(self, address: str, finished: Finished) -> None:
        """Writes a part, whole or not at all.

        Raises:
            ConfigurationError: it cannot be written.
        """
        self._write(self._file(address), _encoded(address, finished))

    def _claim(self, reference: str) -> None:
        """Makes the folder the reference's, or holds that it is.

        Raises:
            ConfigurationError: it is another's.
        """
        now = {"reference": reference, **self.code}
        file = self.folder / OWNER
        try:
            known = strict_json(read_bounded(file, MOST_HEADER))
        except FileNotFoundError:
            self._require_ours()
            self._write(file, json.dumps(now, indent=1, sort_keys=True).encode() + b"\n")
            known = now
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"resume folder {self.folder}: {OWNER} cannot be read ({error}), so nobody knows whose rows it has. "
                "Remove the folder, or give another one."
            ) from error
        if known != now:
            known = known if isinstance(known, dict) else {}
            other = [
                f"{name} {str(known.get(name, 'unknown'))[:16]}, now {value[:16]}"
                for name, value in now.items()
                if known.get(name) != value
            ]
            raise ConfigurationError(
                f"resume folder {self.folder} has rows of {listed(other, 4, '; ')}: none of them can be used, and "
                "nothing was measured. Give each reference and each version a folder of its own, or remove this one."
            )
        self._owner = reference

    def _require_ours(self) -> None:
        """Nothing is written into a folder that has other things in it."""
        try:
            others = sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))
        except FileNotFoundError:
            return
        except OSError as error:
            raise ConfigurationError(f"resume folder {self.folder} cannot be read: {error.strerror}.") from error
        if others:
            raise ConfigurationError(
                f"resume folder {self.folder} has no {OWNER}, and has {listed(others, 3)}. Give an empty folder, or "
                "one that does not exist yet."
            )

    def _file(self, address: str) -> Path:
        return self.folder / ROWS / address[:2] / address

    def _write(self, file: Path, content: bytes) -> None:
        try:
            write_atomically({file: content})
        except OSError as error:
            raise ConfigurationError(
                f"resume folder {self.folder} cannot be written to: {error.strerror or error}. Make room or give "
                "another folder; what is in it stays."
            ) from error


def _digest(values: Activations) -> str:
    """SHA-256 of given values."""
    total = hashlib.sha256(json.dumps([list(values.index), list(values.lengths)], default=int).encode())
    for group in values.groups:
        total.update(f"{group.dtype} {group.shape}".encode())
        total.update(np.ascontiguousarray(group).tobytes())
    return total.hexdigest()


def _encoded(address: str, finished: Finished) -> bytes:
    header = json.dumps({"address": address, "shape": finished.metric.shape, "notes": list(finished.notes)})
    body = header.encode() + b"\n" + np.ascontiguousarray(finished.metric, "<f4").tobytes()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _decoded(content: bytes, address: str, shape: tuple[int, int]) -> Finished:
    """A part as it was kept.

    Raises:
        ValueError, KeyError, TypeError: it is not what was kept.
    """
    digest, _, body = content.partition(b"\n")
    header, _, numbers = body.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError("other bytes than were kept")
    said: dict[str, Any] = strict_json(header)
    notes = said["notes"]
    is_plain = isinstance(notes, list) and all(isinstance(note, str) and len(note) <= MOST_LETTERS for note in notes)
    if said["address"] != address or said["shape"] != list(shape) or not is_plain or len(notes) > MOST_NOTES:
        raise ValueError("another part than was asked for")
    return Finished(np.frombuffer(numbers, "<f4").reshape(shape).astype(np.float32), tuple(notes))
