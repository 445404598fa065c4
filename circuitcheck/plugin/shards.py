"""One of several processes that share a gate or a recording, on as many machines, with nothing between them but files.

`--circuit-shard 2/4` does the second of four parts. `python -m circuitcheck.merge` puts them together.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitcheck.core.errors import ConfigurationError

if TYPE_CHECKING:
    from circuitcheck.plugin.cases import Case

MOST = 10_000
SCHEMA = 1


@dataclass(frozen=True)
class Shard:
    """One part of a run.

    Attributes:
        number: which, from 1.
        count: of how many.
    """

    number: int
    count: int

    @property
    def name(self) -> str:
        """What its file is called, without an ending."""
        return f"shard-{self.number}-of-{self.count}"

    def of(self, cases: Sequence[Case], *, by_circuit: bool) -> list[Case]:
        """Its cases: neighbours, so that a candidate is loaded by few shards.

        Args:
            cases: of the whole run.
            by_circuit: whether all cases of a circuit are done together, because it is recorded once.

        Raises:
            ConfigurationError: there are fewer things to do than shards.
        """
        things = list(dict.fromkeys(case.circuit if by_circuit else case.number for case in cases))
        if len(things) < self.count:
            what = "baselines to record" if by_circuit else "cases (candidates times tasks times kinds of unit)"
            raise ConfigurationError(
                f"--circuit-shard {self}: there are {len(things)} {what}, so a shard would have nothing to do. Give at "
                f"most {len(things)} shards."
            )
        own = set(things[(self.number - 1) * len(things) // self.count : self.number * len(things) // self.count])
        return [case for case in cases if (case.circuit if by_circuit else case.number) in own]

    def __str__(self) -> str:
        """As it is given."""
        return f"{self.number}/{self.count}"


def parse_shard(text: str) -> Shard:
    """The shard that is called `2/4`.

    Raises:
        ValueError: it is none.
    """
    match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text.strip())
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count <= MOST:
        raise ValueError(f"I/N, the I-th of N shards, with 1 <= I <= N <= {MOST}, such as 2/4")
    return Shard(number, count)


def fingerprint(value: Any) -> str:
    """SHA-256 of something that JSON can say."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def fingerprint_files(files: Sequence[Path]) -> str:
    """SHA-256 of files, of which some may be missing."""
    found = [hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "missing" for file in files]
    return fingerprint(found)


def shard_content(
    shard: Shard, run: Mapping[str, str], document: Mapping[str, Any] | None, more: Mapping[str, Any]
) -> bytes:
    """What a shard leaves for the others.

    Args:
        shard: which it is.
        run: what all shards of a run have in common, name to value.
        document: its own part, as a report; None where nothing was compared.
        more: cases, candidates' weights or baselines.
    """
    content = {"shard": shard.number, "shards": shard.count, "shard_schema": SCHEMA, "run": dict(run)}
    return json.dumps({**content, **more, "report": document}, indent=1, allow_nan=False).encode() + b"\n"
