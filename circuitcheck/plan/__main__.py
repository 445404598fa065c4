"""`python -m circuitcheck.plan MODEL`: passes, operations, bytes, memory and hours of a recording that is not run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tabulate import tabulate

from circuitcheck.core.errors import CircuitcheckError, ConfigurationError
from circuitcheck.core.model_shape import ModelShape
from circuitcheck.core.people import plain_lines
from circuitcheck.core.specification import POSITIONS
from circuitcheck.gate.screen import SAMPLE_SHARE, TOP_SHARE
from circuitcheck.plan.cost import Cost, Job, costs, is_offloaded, memory, total
from circuitcheck.plan.hardware import GPUS, Hardware

HERE = "here"
SCREENED = TOP_SHARE + SAMPLE_SHARE
"""Largest share of the heads that a screened sweep ablates."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: those after the program's name; the process's own if not given.

    Returns:
        The exit code: 0, or 1 if a configuration cannot be read.
    """
    given = _parser().parse_args(arguments)
    try:
        hardware = _hardware(given)
        job = _job(given)
        from circuitcheck.runtimes.pytorch.loading.shape import shape_of

        shown = [plan_text(shape_of(model), job, hardware) for model in given.models]
    except CircuitcheckError as error:
        sys.stderr.write(plain_lines(f"circuitcheck: {error}") + "\n")
        return 1
    sys.stdout.write(plain_lines("\n\n".join(shown)) + "\n")
    return 0


def plan_text(shape: ModelShape, job: Job, hardware: Hardware) -> str:
    """One model's plan as text."""
    parts = costs(shape, job, hardware)
    table = tabulate(
        [_row(cost) for cost in (*parts, total(parts))],
        headers=("", "passes", "TFLOP", "weights read, GB", "hours"),
        disable_numparse=True,
        colalign=("left", *("right",) * 4),
    )
    kept, away = memory(shape, job), memory(shape, job, on_disk=True)
    fits = ", more than there is: they stay on disk, and no roundings" if is_offloaded(shape, hardware) else ""
    lines = [
        f"{shape.name} on {hardware.name}: {len(shape.layers)} layers, {shape.heads:,} heads, "
        f"{shape.stored / 1e9:.3g} billion weights, {shape.used / 1e9:.3g} billion in layers used a token; "
        f"{job.prompts} prompts of {job.tokens} tokens, ablated at {job.ablate_at}",
        table,
        f"memory: weights {_gigabytes(kept['weights'])}{fits}; with --circuit-device-map disk "
        f"{_gigabytes(away['weights'])} at once. Beside them {_gigabytes(kept['record of a prompt'])} a prompt that is "
        f"recorded, and {_gigabytes(kept['row'])} a row while it runs.",
    ]
    return "\n".join(lines)


def _row(cost: Cost) -> tuple[str, ...]:
    numbers = (cost.passes, cost.flops / 1e12, cost.read / 1e9, cost.seconds / 3600)
    return (cost.name, *(f"{number:,.3g}" if number < 1000 else f"{number:,.0f}" for number in numbers))


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


def _job(given: argparse.Namespace) -> Job:
    job = Job(given.prompts, given.tokens, given.ablate_at, swept=1.0 if given.sweep == "exact" else SCREENED)
    if min(job.prompts, job.tokens) < 1:
        raise ConfigurationError("prompts and tokens must be at least 1.")
    return job


def _hardware(given: argparse.Namespace) -> Hardware:
    """A GPU by name, or this machine, measured; single figures replace those."""
    if given.hardware == HERE:
        from circuitcheck.runtimes.pytorch.speed import speed

        found = Hardware("this machine, measured just now", *speed(), tokens=1024, answers=256)
    else:
        found = GPUS[given.hardware]
    changed = {name: getattr(given, name) for name in ("flops", "bandwidth", "memory", "disk")}
    known = {name: value for name, value in changed.items() if value is not None}
    if any(not value > 0 for value in known.values()):
        raise ConfigurationError("flops, bandwidth, memory and disk must be above 0.")
    return Hardware(**(vars(found) | known))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m circuitcheck.plan",
        description="Says what recording a baseline of heads costs, from a config.json alone: no weights are read, and "
        "nothing is run but, without --hardware, about a second of products that tells how fast this machine is.",
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a directory with a config.json, or that file")
    parser.add_argument("--hardware", choices=(HERE, *GPUS), default=HERE, help="which machine (default: here)")
    parser.add_argument("--flops", type=float, help="its peak of float32 products a second, such as 19.5e12")
    parser.add_argument("--bandwidth", type=float, help="bytes that it reads from its memory a second, such as 2e12")
    parser.add_argument("--memory", type=float, help="its bytes; a model that needs more stays on disk")
    parser.add_argument("--disk", type=float, help="bytes read from its disk a second (default: 3e9)")
    parser.add_argument("--prompts", type=int, default=Job.prompts, metavar="N", help="of the task (default: 128)")
    parser.add_argument("--tokens", type=int, default=Job.tokens, metavar="N", help="of a prompt (default: 16)")
    parser.add_argument(
        "--ablate-at", choices=POSITIONS, default="all", help="positions that are replaced (default: all)"
    )
    parser.add_argument(
        "--sweep", choices=("exact", "screened"), default="exact", help="of which heads (default: exact)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
