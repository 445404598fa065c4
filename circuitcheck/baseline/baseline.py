"""A golden baseline: a recording with a place on disk."""

from __future__ import annotations

from pathlib import Path

from circuitcheck.baseline.atomic import write_atomically
from circuitcheck.baseline.encoding import decode, encode
from circuitcheck.baseline.recording import Recording
from circuitcheck.core.errors import BaselineError
from circuitcheck.core.specification import MeasurementSpec


class Baseline(Recording):
    """The recorded reference circuit of one (model, task); see `Recording` for what it holds."""

    def save(self, directory: Path) -> list[Path]:
        """Writes the JSON and the safetensors file into `directory`, both or neither; see `baseline_files`.

        Returns:
            The files that were written.

        Raises:
            BaselineError: the directory cannot be written to.
        """
        json_bytes, arrays = encode(self)
        json_file, array_file = baseline_files(directory, self.task.name, self.spec.unit)
        try:
            write_atomically({array_file: arrays, json_file: json_bytes})
        except OSError as error:
            raise BaselineError(f"golden baseline {json_file} cannot be written: {error.strerror or error}.") from error
        return [json_file, array_file]

    @staticmethod
    def load(json_file: Path) -> Baseline:
        """Reads a baseline and checks every byte of it.

        Args:
            json_file: `<task>.json`; the safetensors file lies beside it.

        Raises:
            BaselineError: a file is missing, truncated, corrupt or edited by hand.
            StaleBaselineError: it was written under another schema.
        """
        json_bytes, arrays = _read(json_file), _read(json_file.with_suffix(".safetensors"))
        return Baseline(**decode(json_bytes, arrays, name=str(json_file)))


def baseline_files(directory: Path, task: str, unit: str = MeasurementSpec.unit) -> tuple[Path, Path]:
    """The JSON and the safetensors file of a task: `ioi.json`, or `ioi.block.json` for another kind of unit."""
    name = task if unit == MeasurementSpec.unit else f"{task}.{unit}"
    return directory / f"{name}.json", directory / f"{name}.safetensors"


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        reason = f"cannot be read: {error.strerror}" if file.exists() else "is missing; record the reference first"
        raise BaselineError(f"golden baseline {file} {reason}.") from error
