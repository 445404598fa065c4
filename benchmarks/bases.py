"""The same computation in another basis, and what only looks like it: `python benchmarks/bases.py --json FILE`.

Models of several architectures are rewritten in memory so that they compute the same (`detection.bases`), or have one
important head changed by an edit of the same kind (`detection.lookalikes`), are rounded, and gated on a baseline of the
original. No rewritten model may fail, nor drift by more than 1.2 times what the same rounding does to the original (of
each kind and rounding the median over models, since single heads depend on which way weights happen to be rounded); no
look-alike may pass.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

import numpy as np
import torch
from detection.anatomy import head_maps
from detection.bases import KINDS, WIDE_KINDS, change_basis, logits_of
from detection.detectors import criterion_score
from detection.lookalikes import LOOK_ALIKES, plant, targets
from detection.rounding import round_to
from name_recall import write_names
from tabulate import tabulate
from tiny_circuits import solvable_task
from tiny_models import tiny_module
from torch import nn

from circuitcheck import Baseline, hook_module, judge, load_model, load_task, measure, record_reference
from circuitcheck.core.errors import CircuitcheckError

VARIABLE = "CIRCUITCHECK_REAL_MODEL"
TINY = {"llama": 0, "gpt2": 1, "phi3": 1, "mistral": 2, "opt": 0}
"""Architecture to seed: of the first four the one whose circuit 4 bits move least, for they move random ones a lot."""

ROUNDINGS = ("f32", "f16", "int8-rtn", "int4-rtn")
UNCHANGED = "unchanged"

DISGUISES = (
    ("", "f32"),
    ("heads rotated", "int8-rtn"),
    ("heads rotated", "int4-rtn"),
    ("stream rotated", "int8-rtn"),
    ("stream rotated", "int4-rtn"),
)
"""Changes of basis and roundings that a look-alike hides behind."""

SHOWN = (("plain", "f32"), ("8 bits", "int8-rtn"), ("4 bits", "int4-rtn"))
"""Columns of the table of look-alikes."""

MATERIAL = 0.01
"""Of the largest logit: what a look-alike must move them by, or it is no fault."""

TARGETS = {
    "same": (">=", 80),
    "same_failed": ("<=", 0),
    "drift_median_ratio": ("<=", 1.2),
    "drift_largest_ratio": ("<=", 1.2),
    "look_alikes_telling": (">=", 80),
    "look_alikes_passed": ("<=", 0),
}


@dataclass(frozen=True)
class Subject:
    """A reference on one task.

    Attributes:
        name: of model and task.
        module: the float32 model.
        tokenizer: its tokenizer, if it has one.
        baseline: what was recorded of it.
    """

    name: str
    module: nn.Module
    tokenizer: Any
    baseline: Baseline


@dataclass(frozen=True)
class Row:
    """One candidate.

    Attributes:
        subject: model and task.
        family: `same` or `look-alike`.
        kind: of the change, or the look-alike.
        basis: what a look-alike hides behind; empty for none, and for all others.
        precision: what it was rounded to.
        seed: of the change.
        word: the verdict; REFUSED where the gate would not measure it.
        red: criteria that do not pass.
        used: how much of its allowance the worst criterion uses at the worse end of its interval; above 1 where the
            verdict is not PASS.
        profile_distance, drift_median, drift_largest: as measured.
        drift_median_ratio, drift_largest_ratio: over that of the same rounding of the original; NaN without rounding.
        seconds: that it took.
    """

    subject: str
    family: str
    kind: str
    basis: str
    precision: str
    seed: int
    word: str
    red: list[str]
    used: float
    profile_distance: float = math.nan
    drift_median: float = math.nan
    drift_largest: float = math.nan
    drift_median_ratio: float = math.nan
    drift_largest_ratio: float = math.nan
    seconds: float = 0.0


def subjects(only: Sequence[str], folder: Path) -> Iterator[Subject]:
    """References and tasks whose names contain one of these, all without."""

    def wanted(name: str) -> bool:
        return not only or any(part in name for part in only)

    for task in ("ioi", "facts", "induction"):
        if wanted(f"embedded {task}"):
            model = load_model("embedded", device="cpu")
            recorded = record_reference(model, load_task(task, model.tokenizer, prompts=40))
            yield Subject(f"embedded {task}", model.module, model.tokenizer, recorded)
    if wanted("stories260k names") and os.environ.get(VARIABLE):
        model = load_model(os.environ[VARIABLE], device="cpu")
        names = load_task(str(write_names(folder / "names.jsonl")), model.tokenizer)
        yield Subject("stories260k names", model.module, model.tokenizer, record_reference(model, names))
    for name, seed in TINY.items():
        if wanted(f"tiny {name}"):
            module = tiny_module(name, seed)
            model = hook_module(module, name=name)
            yield Subject(f"tiny {name}", module, None, record_reference(model, solvable_task(model, prompts=40)))


def gated(subject: Subject, row: Row, module: nn.Module) -> Row:
    """The row with what the gate says of the module, which it rounds."""
    start = time.perf_counter()
    round_to(module, row.precision)
    name = subject.baseline.model
    model = hook_module(module, tokenizer=subject.tokenizer, name=name, precision=row.precision)
    try:
        verdict = judge(measure(model, subject.baseline, curves=False))
    except CircuitcheckError as error:
        return replace(row, word="REFUSED", red=[str(error)], used=math.inf, seconds=time.perf_counter() - start)
    circuit = verdict.measurement.circuit
    if circuit is None:
        raise AssertionError(f"{subject.name}: {verdict.measurement.inconclusive}")
    return replace(
        row,
        word=verdict.word,
        red=[criterion.name for criterion in verdict.criteria if criterion.verdict != "PASS"],
        used=math.exp(max(map(criterion_score, verdict.criteria))),
        profile_distance=circuit.profile_distance.value,
        drift_median=circuit.drift_median.value,
        drift_largest=circuit.drift_largest.value,
        seconds=time.perf_counter() - start,
    )


def same(subject: Subject, seeds: int) -> Iterator[Row]:
    """The original, and every change of basis, under every rounding."""
    for precision in ROUNDINGS:
        row = Row(subject.name, "same", UNCHANGED, "", precision, 0, "", [], 0.0)
        plain = gated(subject, row, deepcopy(subject.module))
        yield plain
        for kind in (*KINDS, *WIDE_KINDS) if precision == "f32" else KINDS:
            for seed in range(seeds):
                module = deepcopy(subject.module)
                change_basis(module, kind, seed)
                changed = gated(subject, replace(row, kind=kind, seed=seed), module)
                yield changed if precision == "f32" else compared(changed, plain)


def compared(row: Row, plain: Row) -> Row:
    """The row with its drift beside that of the same rounding of the original."""
    return replace(
        row,
        drift_median_ratio=row.drift_median / plain.drift_median,
        drift_largest_ratio=row.drift_largest / plain.drift_largest,
    )


def look_alikes(subject: Subject) -> Iterator[Row]:
    """Every look-alike in the head that matters most, plain and behind every disguise."""
    baseline = subject.baseline
    importance = dict(zip(baseline.measured, baseline.importance(baseline.spec.ablation).tolist(), strict=True))
    head, other = targets(importance, head_maps(subject.module, 0).per_group)
    before = logits_of(subject.module)
    for kind in LOOK_ALIKES:
        faulty = deepcopy(subject.module)
        plant(faulty, kind, head, other)
        moved = float((logits_of(faulty) - before).abs().max() / before.abs().max())
        if not moved > MATERIAL:
            raise AssertionError(f"{subject.name}: {kind} in head {head} moves logits by {moved:.1e} only.")
        for basis, precision in DISGUISES:
            module = deepcopy(faulty)
            if basis:
                change_basis(module, basis)
            row = Row(subject.name, "look-alike", kind, basis, precision, 0, "", [], 0.0)
            yield gated(subject, row, module)


def table_of_same(rows: Sequence[Row]) -> str:
    """Kinds by rounding."""
    lines = []
    for (kind, precision), some in grouped(rows, lambda row: (row.kind, row.precision)):
        ratios = [[getattr(row, f"{name}_ratio") for row in some] for name in ("drift_median", "drift_largest")]
        lines.append(
            [
                kind,
                precision,
                *counts(some),
                f"{max(row.profile_distance for row in some):.2g}",
                f"{max(row.drift_median for row in some):.2g}",
                f"{max(row.drift_largest for row in some):.2g}",
                *("-" if math.isnan(some[0]) else f"{np.median(some):.2f}, {max(some):.2f}" for some in ratios),
            ]
        )
    headers = ["change", "rounding", "PASS", "INCONCLUSIVE", "FAIL", "profile distance"]
    headers += ["drift, median", "drift, largest", "median's ratio", "largest's ratio"]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def table_of_look_alikes(rows: Sequence[Row]) -> str:
    """Kinds, with the smallest use of a limit under each rounding."""
    lines = []
    for (kind,), some in grouped(rows, lambda row: (row.kind,)):
        used = [min(row.used for row in some if row.precision == precision) for _, precision in SHOWN]
        lines.append([kind, *counts(some), *(f"{value:.3g}" for value in used)])
    headers = ["look-alike", "PASS", "INCONCLUSIVE", "FAIL", *(f"smallest use, {label}" for label, _ in SHOWN)]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def grouped(rows: Sequence[Row], key: Callable[[Row], tuple[str, ...]]) -> list[tuple[tuple[str, ...], list[Row]]]:
    """Rows by a key, in order of appearance."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.items())


def counts(rows: Sequence[Row]) -> list[int]:
    """How many pass, are undecided, and fail; what the gate refused counts as failed."""
    words = [row.word for row in rows]
    return [words.count("PASS"), words.count("INCONCLUSIVE"), words.count("FAIL") + words.count("REFUSED")]


def figures_of(rows: Sequence[Row]) -> dict[str, float]:
    """The figures that targets are set for."""
    changed = [row for row in rows if row.family == "same" and row.kind != UNCHANGED]
    faulty = [row for row in rows if row.family == "look-alike"]
    # Where rounding alone does not pass, a look-alike that does not says little.
    passing = {(row.subject, row.precision) for row in rows if row.kind == UNCHANGED and row.word == "PASS"}
    figures: dict[str, float] = {
        "same": len(changed),
        "same_failed": counts(changed)[2],
        "same_inconclusive": counts(changed)[1],
        "look_alikes": len(faulty),
        "look_alikes_telling": sum((row.subject, row.precision) in passing for row in faulty),
        "look_alikes_passed": counts(faulty)[0],
        "look_alikes_inconclusive": counts(faulty)[1],
    }
    for name in ("drift_median_ratio", "drift_largest_ratio"):
        ratios = [
            [getattr(row, name) for row in some]
            for (_, precision), some in grouped(changed, lambda row: (row.kind, row.precision))
            if precision != "f32"
        ]
        figures[name] = max(max(some) for some in ratios)
        figures[f"{name}_typical"] = max(float(np.median(some)) for some in ratios)
        figures[f"{name}_above"] = sum(ratio > 1.2 for some in ratios for ratio in some)
    return figures


def show(rows: Sequence[Row], figures: dict[str, float]) -> None:
    """Prints everything."""
    print(table_of_same([row for row in rows if row.family == "same"]), end="\n\n")
    print(table_of_look_alikes([row for row in rows if row.family == "look-alike"]), end="\n\n")
    for row in rows:
        if (row.word == "PASS") == (row.family == "look-alike"):
            print(f"{row.subject}: {row.kind} {row.basis} {row.precision} {row.seed}: {row.word} {', '.join(row.red)}")
    for key, (sign, target) in TARGETS.items():
        met = figures[key] >= target if sign == ">=" else figures[key] <= target
        print(f"{key}: {figures[key]:.4g} (to reach: {sign} {target:g}){'' if met else '  <-- not reached'}")


def main() -> None:
    """Gates everything and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where all figures go")
    parser.add_argument("--only", nargs="*", default=[], help="models and tasks whose names contain one of these")
    parser.add_argument("--seeds", type=int, default=1, help="of each change of basis (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    rows: list[Row] = []
    with TemporaryDirectory() as directory:
        for subject in subjects(arguments.only, Path(directory)):
            rows += [*same(subject, arguments.seeds), *look_alikes(subject)]
            print(f"{subject.name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    figures = figures_of(rows) | {"seconds": time.perf_counter() - start}
    show(rows, figures)
    if arguments.json:
        content = figures | {"candidates": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
