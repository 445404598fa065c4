"""Parts of a run as files, which anybody may have changed or mixed up: read, validated, and held against each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from circuitcheck.core.bounded import read_bounded
from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.phrases import first_lines, listed
from circuitcheck.core.strict_json import strict_json
from circuitcheck.plugin.shards import MOST, SCHEMA, Shard

MOST_BYTES = 2**28
"""Of a part that is read."""

Name = Annotated[str, Meta(max_length=1000)]
Text = Annotated[str, Meta(max_length=100_000)]
Count = Annotated[int, Meta(ge=1, le=MOST)]


class Recorded(Struct):
    """A baseline that a part recorded: what its JSON is called, and the SHA-256 of that."""

    name: Name
    sha256: Name


class Part(Struct):
    """What one shard left.

    Attributes:
        shard: which it was, from 1.
        shards: of how many.
        shard_schema: of the file.
        run: what all parts of a run have in common, name to value.
        numbers: of its cases among all.
        report: its part of the report; None where nothing was compared.
        expected: cases of the whole run.
        weights: candidate to the fingerprint of its weights.
        allowed: exceptions that the run was given.
        model: the folder of the baselines that it recorded.
        recorded: these.
        failed: what could not be recorded, and why.
        outcomes: circuit to what became of it, line by line.
        file: where it lies.
    """

    shard: Count
    shards: Count
    shard_schema: int
    run: dict[Name, Text]
    numbers: list[int]
    report: dict[str, Any] | None = None
    expected: int = 0
    weights: dict[Name, Name] = {}
    allowed: list[Name] = []
    model: Name = ""
    recorded: list[Recorded] = []
    failed: list[Text] = []
    outcomes: dict[Name, list[Text]] = {}
    file: str = ""

    @property
    def name(self) -> str:
        """What its file is called, without an ending."""
        return Shard(self.shard, self.shards).name


def read_parts(paths: Sequence[Path]) -> list[Part]:
    """All parts of one run, in order.

    Args:
        paths: their files, or folders in which they lie.

    Raises:
        ConfigurationError: one cannot be read, is missing or there twice, or they are not of one run.
    """
    parts = [_read(file) for path in paths for file in _files(path)]
    if not parts:
        raise ConfigurationError("no part was given. Name the files that --circuit-shard wrote, or their folders.")
    _require_one_run(parts)
    _require_each_once(parts)
    return sorted(parts, key=lambda part: part.shard)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("shard-*-of-*.json"))
    if not found:
        raise ConfigurationError(f"folder {path} holds no shard-I-of-N.json: what --circuit-shard wrote is not there.")
    return found


def _read(file: Path) -> Part:
    try:
        found = strict_json(read_bounded(file, MOST_BYTES))
    except FileNotFoundError as error:
        raise ConfigurationError(f"there is no part {file}. Name the file that --circuit-shard wrote.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"part {file} cannot be read: {error}") from error
    except ValueError as error:
        raise ConfigurationError(f"part {file} is not JSON: {error}. Was it cut off? Run that shard again.") from error
    schema = found.get("shard_schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise ConfigurationError(
            f"{file} is no part that this circuitcheck reads: its shard_schema is {str(schema)[:80]}, not {SCHEMA}."
        )
    try:
        part = msgspec.convert(found, Part)
        if part.shard > part.shards:
            raise ValueError(f"shard {part.shard} of {part.shards}")
    except ValueError as error:
        raise ConfigurationError(f"part {file} is damaged: {first_lines(error)}") from error
    part.file = str(file)
    return part


def _require_one_run(parts: Sequence[Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        names = sorted({*first.run, *part.run})
        other = [name for name in names if first.run.get(name) != part.run.get(name)]
        differences = [f"{name} ({_short(first.run, name)} and {_short(part.run, name)})" for name in other]
        if first.shards != part.shards:
            differences.insert(0, f"number of shards ({first.shards} and {part.shards})")
        if (first.report is None) != (part.report is None):
            differences.append("one recorded, and one compared")
        if differences:
            raise ConfigurationError(
                f"{first.file} and {part.file} are of different runs: they differ in {listed(differences, 4)}. Nothing "
                "was written; run all shards with the same code, models, settings and baselines."
            )
    weights: dict[str, str] = {}
    for part in parts:
        for candidate, found in part.weights.items():
            if weights.setdefault(candidate, found) != found:
                raise ConfigurationError(
                    f"candidate {candidate} had other weights in {part.file} ({found[:12]}) than in an earlier part "
                    f"({weights[candidate][:12]}). Nothing was written; gate the same files everywhere."
                )


def _short(run: dict[str, str], name: str) -> str:
    return run.get(name, "unknown")[:16] or "nothing"


def _require_each_once(parts: Sequence[Part]) -> None:
    files: dict[int, list[str]] = {}
    for part in parts:
        files.setdefault(part.shard, []).append(part.file)
    twice = [f"{number} ({', '.join(found)})" for number, found in sorted(files.items()) if len(found) > 1]
    missing = [str(number) for number in range(1, parts[0].shards + 1) if number not in files]
    faults = [f"shard {listed(twice, 3)} is there more than once"] if twice else []
    faults += [f"shard {listed(missing, 8)} of {parts[0].shards} is missing"] if missing else []
    if faults:
        raise ConfigurationError(f"{' and '.join(faults)}. Nothing was written; give each part once.")
    numbers = [number for part in parts for number in part.numbers]
    if len(set(numbers)) < len(numbers):
        raise ConfigurationError("two parts did the same cases, so one of their files was changed. Run them again.")


def failures(parts: Sequence[Part]) -> Iterator[str]:
    """What parts could not record."""
    for part in parts:
        yield from (f"shard {part.shard}: {failure}" for failure in part.failed)
