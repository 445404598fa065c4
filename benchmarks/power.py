"""How many faults a gate sees, and how often it cries wolf: `python benchmarks/power.py --json FILE`.

Candidates are made of any number of references (`detection.subjects`) by any number of families (`detection.families`):
benign ones, which are only quantized or compute the same, and planted faults, whose effect is told on fresh prompts,
without the gate (`detection.truth`). Every detector sees the same candidates.

Models and families are split in two by a hash: `--half choose` is what limits and rules may be chosen on, `--half
report` all others. `--cache DIR` keeps trained weights and finished rows, so that an interrupted run goes on where it
was; rows of another version of the code that measures are measured anew. Beside each row lies a pickle of everything
that was measured, in plain data and arrays.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import pickle
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from detection.evaluate import Bench, Case, Row
from detection.families import FAMILIES
from detection.subjects import MODELS, TASKS_OF, load
from detection.summary import AREA, summarize
from tabulate import tabulate
from tqdm import tqdm

import circuitcheck

NOT_MEASURING = ("report", "plugin", "suite", "modelcard", "summary.py", "roc.py")
"""Parts of the package, and of `detection`, whose changes leave finished rows as they are."""


PROMPTS = 64
"""Of the gate, where nothing else is asked for."""

TOGETHER = 32
"""Candidates of one model that a process measures behind one another, at most."""


def version() -> str:
    """SHA-256 of all code that measures."""
    total = hashlib.sha256()
    for root in (Path(circuitcheck.__file__).parent, Path(__file__).parent / "detection"):
        for file in sorted(root.rglob("*.py")):
            place = file.relative_to(root).as_posix()
            if not place.startswith(NOT_MEASURING):
                total.update(place.encode() + file.read_bytes())
    return total.hexdigest()[:16]


VERSION = version()


def row_file(cache: Path, case: Case, prompts: int = PROMPTS) -> Path:
    """Where a candidate's finished row is kept; `null` where its family does not apply."""
    name = hashlib.sha256(case.name.encode()).hexdigest()[:32]
    return cache / "rows" / f"{VERSION}-{prompts}" / f"{name}.json"


def cases(
    subjects: Sequence[str], families: Sequence[str], half: str | None, per_family: int, precisions: Sequence[str]
) -> list[Case]:
    """Every candidate on every task, variant by variant, so that a run that was cut short has something of everything.

    Args:
        subjects: `model` or `model/task`, or `DIRECTORY:TASK.jsonl`; all by default.
        families: names; all by default.
        half: `choose`, `report` or None for both.
        per_family: the most variants of each family and precision.
        precisions: that candidates claim; all by default.
    """
    found = []
    for subject in subjects or MODELS:
        model, tasks = model_and_tasks(subject)
        for family in FAMILIES.values():
            if families and family.name not in families:
                continue
            for precision in family.precisions:
                if not precisions or precision in precisions:
                    seeds = range(min(family.seeds, per_family))
                    found += [Case(model, one, family.name, seed, precision) for seed in seeds for one in tasks]
    wanted = [case for case in found if half is None or (case.half == "choose") == (half == "choose")]
    return sorted(wanted, key=lambda case: (case.seed, case.model))


def model_and_tasks(subject: str) -> tuple[str, list[str]]:
    """Of `model`, `model/task` or `DIRECTORY:TASK.jsonl`."""
    model, _, task = subject.rpartition("/")
    if model in MODELS:
        return model, [task]
    return subject, TASKS_OF.get(subject, [Path(subject.rpartition(":")[2]).stem])


_benches: dict[str, Bench] = {}


def work(some: Sequence[Case], cache: Path, prompts: int) -> int:
    """Measures candidates of one model; each row is kept as soon as it is there.

    A process keeps the models that it has loaded, and computes in one thread, for processes that share cores would wait
    for each other.
    """
    torch.set_num_threads(1)
    name = some[0].model
    if name not in _benches:
        _benches[name] = Bench(load(name, cache / "models"), cache, prompts)
    bench = _benches[name]
    for case in some:
        found, file = bench.row(case), row_file(cache, case, prompts)
        file.parent.mkdir(parents=True, exist_ok=True)
        if found is not None:
            _write(file.with_suffix(".pickle"), pickle.dumps({"row": asdict(found[0]), **found[1]}))
        _write(file, json.dumps(None if found is None else asdict(found[0])).encode())
        reference = file.with_name(f"reference {name} {case.task}.pickle".replace("/", "_"))
        if not reference.is_file():
            _write(reference, pickle.dumps(bench.raw(case.task)))
    return len(some)


def _write(file: Path, content: bytes) -> None:
    """Whole or not at all."""
    part = file.with_name(file.name + ".part")
    part.write_bytes(content)
    part.replace(file)


def measure_all(wanted: Sequence[Case], cache: Path, processes: int, prompts: int = PROMPTS) -> list[Row]:
    """Rows of all candidates whose family applies to their model."""
    missing = [case for case in wanted if not row_file(cache, case, prompts).is_file()]
    groups = (list(some) for _, some in groupby(missing, key=lambda case: (case.seed, case.model)))
    jobs = [some[start : start + TOGETHER] for some in groups for start in range(0, len(some), TOGETHER)]
    with tqdm(total=len(wanted), initial=len(wanted) - len(missing), unit="candidate") as progress:
        for count in _run(jobs, cache, processes, prompts):
            progress.update(count)
    found = (json.loads(row_file(cache, case, prompts).read_text()) for case in wanted)
    return [Row(**row) for row in found if row is not None]


def _run(jobs: Sequence[Sequence[Case]], cache: Path, processes: int, prompts: int) -> Iterator[int]:
    if processes == 1:
        yield from (work(some, cache, prompts) for some in jobs)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(work, some, cache, prompts) for some in jobs]):
            yield future.result()


SHOWN = [f"{truth} {number}" for truth in ("benign", "material", "subtle", "minor") for number in (32, 16, 8, 4, 3)]
"""Columns of the tables by model, and by what is new."""


def show(summary: dict[str, Any]) -> None:
    """Prints everything."""
    for half, figures in summary.items():
        print(f"\n{half}")
        columns = ("truth", "bits", "candidates", "red", "inconclusive", "refused", "share", "low", "high")
        rows = [
            [
                *(table[name] for name in columns),
                table.get("target", ""),
                {True: "", False: "not reached"}.get(table.get("reached"), ""),
            ]
            for table in figures["red"]
        ]
        print(tabulate(rows, [*columns, "to reach", ""], floatfmt=".3f"))
        print(f"\nArea on {figures['pairs']} pairs matched in KL within model, task and bits (to reach: {AREA:g})")
        print(
            tabulate(
                [[name, *area] for name, area in figures["areas"].items()], ["", "area", "low", "high"], floatfmt=".3f"
            )
        )
        print("\nFalse alarms by cause")
        print(tabulate(figures["false_alarms"], ["bits", "verdict", "red", "candidates"]))
        for name in ("by_model", "by_what_is_new"):
            places = [key for key in SHOWN if any(key in table for table in figures[name].values())]
            print(f"\n{name.replace('_', ' ').capitalize()}, red of all")
            print(tabulate([[one, *map(table.get, places)] for one, table in figures[name].items()], ["", *places]))
        print("\nBy family")
        print(
            tabulate(
                [
                    [table["truth"], table["family"], table["candidates"], table["passed"], table["where"] or ""]
                    for table in figures["families"]
                ],
                ["truth", "family", "candidates", "passed", "passed where"],
            )
        )


def main() -> None:
    """Runs everything and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where all figures go")
    parser.add_argument(
        "--subjects",
        nargs="*",
        default=[],
        help=f"model, model/task or DIRECTORY:TASK.jsonl, of {', '.join(MODELS)}; all by default",
    )
    parser.add_argument("--families", nargs="*", default=[], help="by name; all by default")
    parser.add_argument("--half", choices=("choose", "report"), help="both by default")
    parser.add_argument("--per-family", type=int, default=4, help="variants of each (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="most of a task (default: %(default)s)")
    parser.add_argument("--precisions", nargs="*", default=[], help="that candidates claim; all by default")
    parser.add_argument("--cache", type=Path, help="keeps trained weights and finished rows")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="measures, and shows nothing of what came out")
    arguments = parser.parse_args()
    start = time.perf_counter()
    with TemporaryDirectory() as directory:
        cache = arguments.cache or Path(directory)
        wanted = cases(
            arguments.subjects, arguments.families, arguments.half, arguments.per_family, arguments.precisions
        )
        rows = measure_all(wanted, cache, arguments.jobs, arguments.prompts)
    if arguments.quiet:
        return
    summary = summarize(rows)
    show(summary)
    if arguments.json:
        content = {**summary, "seconds": time.perf_counter() - start, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
