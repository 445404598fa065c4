"""What a shard leaves: one file with its part of the report, or with the names of the baselines that it recorded."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from circuitcheck.baseline.names import baseline_file
from circuitcheck.core.errors import CircuitcheckError, ConfigurationError
from circuitcheck.core.phrases import first_lines
from circuitcheck.plugin.shards import shard_content

if TYPE_CHECKING:
    from circuitcheck.plugin.files import Written
    from circuitcheck.plugin.session import GateSession


def write_compared_part(session: GateSession, document: dict[str, Any]) -> list[Written]:
    """Writes a shard's part of the report."""
    settings = session.settings
    allowed = [name for name in ("allow_inconclusive", "allow_incomplete") if getattr(settings, name)]
    more = {"expected": session.expected, "weights": session.weights(), "allowed": allowed}
    return _write(session, document, more)


def write_recorded_part(session: GateSession) -> list[Written]:
    """Writes which baselines a shard recorded, and what became of the others."""
    recorded, failed, outcomes = [], [], {}
    for circuit, made in session.accepted.items():
        if isinstance(made, CircuitcheckError):
            failed.append(f"{circuit}: {first_lines(made)}")
            continue
        outcomes[circuit] = [made.outcome, *made.details]
        if made.baseline is not None:
            file = baseline_file(session.written_to, made.baseline.task.name, made.baseline.spec.unit)
            digest = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
            recorded.append({"name": file.name, "sha256": digest})
    circuits = {case.circuit for case in session.cases}
    failed += [f"{circuit}: it was not selected" for circuit in sorted(circuits - set(session.accepted))]
    more = {"model": session.written_to.name, "recorded": recorded, "failed": failed, "outcomes": outcomes}
    return _write(session, None, more)


def _write(session: GateSession, document: dict[str, Any] | None, more: dict[str, Any]) -> list[Written]:
    from circuitcheck.baseline.atomic import write_atomically

    shard, directory = session.settings.shard, session.settings.report_dir
    assert shard is not None
    assert directory is not None
    file = directory / f"{shard.name}.json"
    more = {"numbers": [case.number for case in session.cases], **more}
    try:
        write_atomically({file: shard_content(shard, session.run_facts(), document, more)})
    except (OSError, ConfigurationError) as error:
        return [(f"{file} could not be written: {getattr(error, 'strerror', None) or error}", False)]
    return [(f"wrote {file}", True)]
