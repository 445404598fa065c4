"""What accepting a new reference changes, in words that a reviewer can judge."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from circuitcheck.baseline.recording import Recording
from circuitcheck.baseline.rounded import Rounded

SHOWN_UNITS = 8
COSTS = (
    ("drift", "drifts by", False),
    ("profile_distance", "profile distance", False),
    ("behaviour_kept", "keeps of the behaviour", True),
    ("changed_answers", "changes answers of", False),
    ("metric_change", "changes the metric by", False),
    ("kl_divergence", "KL, nats", False),
)
"""Measure of a rounding, what it is called, and whether less of it is worse."""

MOVED = 0.01
"""A unit is listed when its importance moved by more than this share of the largest."""


def describe_new(new: Recording) -> list[str]:
    """What a first baseline says."""
    return [_competence(new), *([_top_units(new)] if new.solved else []), *describe_roundings(new)]


def describe_roundings(recording: Recording) -> list[str]:
    """What rounding alone does to this model, the worst of all ways: a table with a row for each precision."""
    if not recording.roundings:
        return []
    by_precision: dict[str, list[Rounded]] = {}
    for one in recording.roundings:
        by_precision.setdefault(one.precision, []).append(one)
    rows = [
        [precision, len(ways), *(_worst(ways, name, is_share) for name, _, is_share in COSTS)]
        for precision, ways in by_precision.items()
    ]
    headings = ["rounded to", "ways", *(heading for _, heading, _ in COSTS)]
    table = tabulate(rows, headings, tablefmt="simple", disable_numparse=True, stralign="right")
    return [
        "what plain rounding alone does to this model on this task, the worst of several ways:",
        *table.splitlines(),
    ]


def _worst(ways: Sequence[Rounded], name: str, is_share: bool) -> str:
    values = [one.measures[name] for one in ways if name in one.measures]
    return f"{(min if is_share else max)(values):.2g}" if values else "-"


def describe_change(old: Recording, new: Recording) -> list[str]:
    """Which fingerprints and which units changed, and by how much."""
    lines = [
        f"{name}: {old.measured_with.get(name, 'none')[:12]} -> {value[:12]}"
        for name, value in new.measured_with.items()
        if old.measured_with.get(name) != value
    ]
    if _competence(old) != _competence(new):
        lines.append(f"{_competence(old)} -> {_competence(new)}")
    if old.layout != new.layout or old.measured != new.measured or not old.solved or not new.solved:
        return [*lines, f"{new.spec.unit}s: not comparable"]
    return [*lines, *_moved_units(old, new)]


def _moved_units(old: Recording, new: Recording) -> list[str]:
    kind, ablation = new.spec.unit, new.spec.ablation
    before, after = old.importance(ablation), new.importance(ablation)
    largest = max(abs(before).max(), abs(after).max())
    moved = sorted(range(len(new.measured)), key=lambda place: -abs(after[place] - before[place]))
    moved = [place for place in moved if abs(after[place] - before[place]) > MOVED * largest]
    names = [new.layout.label(unit) for unit in new.measured]
    lines = [
        f"{kind} {names[place]}: importance {before[place]:.3f} -> {after[place]:.3f} logits"
        for place in moved[:SHOWN_UNITS]
    ]
    if len(moved) > SHOWN_UNITS:
        lines.append(f"and {len(moved) - SHOWN_UNITS} more {kind}s moved")
    return lines or [f"no {kind} moved by more than {MOVED:.0%} of the largest importance"]


def _competence(recording: Recording) -> str:
    solved = f"solves {len(recording.solved)} of {len(recording.task.pairs)} prompts"
    return f"{solved} (INCONCLUSIVE: {recording.incompetence})" if recording.incompetence else solved


def _top_units(recording: Recording) -> str:
    importance = recording.importance(recording.spec.ablation)
    top = sorted(range(len(importance)), key=lambda place: -abs(importance[place]))[:SHOWN_UNITS]
    listed = ", ".join(
        f"{recording.layout.label(recording.measured[place])} ({importance[place]:.2f})" for place in top
    )
    return f"most important {recording.spec.unit}s, in logits: {listed}"
