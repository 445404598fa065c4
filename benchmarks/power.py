"""How many faults a gate sees, and how often it cries wolf: `python benchmarks/power.py --json FILE`.

Candidates of known truth are made from the embedded model (`detection`): benign ones, which are only
quantized, and planted faults, most of them healed by distillation until their outputs are as close to the reference's
as those of the benign ones. Every detector sees the same candidates, the same text and the same prompts.

`--cache DIR` keeps trained weights and finished rows, so that an interrupted run goes on where it was; rows of another
version of the package are measured anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from detection.benign import benign
from detection.candidate import LabelledCandidate
from detection.detectors import OURS
from detection.evaluate import Judge, Row
from detection.faults import faults
from detection.summary import Summary, detectors, of, summarize
from detection.truth import IN_CIRCUIT
from tabulate import tabulate
from tqdm import tqdm

import circuitcheck
from circuitcheck import load_model, load_task, record_reference
from circuitcheck.stats.estimate import Estimate
from circuitcheck.tasks.named import BUILT_IN

TARGETS = {
    "auc_matched.circuitcheck": (">=", 0.99),
    "auc_matched.kl": ("<", 0.75),
    "auc_matched.perplexity_change": ("<", 0.75),
    "false_alarms": ("<=", 0),
    "benign": (">=", 200),
    "faults": (">=", 100),
    "caught_share": (">=", 0.95),
}
NOT_MEASURING = ("report", "plugin", "suite", "modelcard", "summary.py", "roc.py")
"""Parts of the package, and of `detection`, whose changes leave finished rows as they are."""


class Bench:
    """Everything that a process needs to measure candidates by name."""

    def __init__(self, cache: Path) -> None:
        reference = load_model("embedded", device="cpu")
        baselines = {name: record_reference(reference, load_task(name, reference.tokenizer)) for name in BUILT_IN}
        self.judge = Judge(reference, baselines)
        self.candidates = {one.name: one for one in [*benign(), *faults(reference, baselines, cache / "weights")]}

    def rows(self, names: Sequence[str], cache: Path) -> Iterator[Row]:
        """Rows of some candidates, kept in the cache as soon as they are there."""
        for name in names:
            row = self.judge.row(self.candidates[name])
            file = row_file(cache, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part")
            part.write_text(json.dumps(asdict(row)))
            part.replace(file)
            yield row


_bench: Bench | None = None


def start_worker(cache: Path) -> None:
    """One computing thread a process: processes that share cores would wait for each other."""
    global _bench
    torch.set_num_threads(1)
    _bench = Bench(cache)


def work(names: Sequence[str], cache: Path) -> list[Row]:
    """Measures candidates in a worker."""
    assert _bench is not None
    return list(_bench.rows(names, cache))


def version() -> str:
    """SHA-256 of all code that measures."""
    total = hashlib.sha256()
    for root in (Path(circuitcheck.__file__).parent, Path(__file__).parent / "detection"):
        for file in sorted(root.rglob("*.py")):
            place = file.relative_to(root).as_posix()
            if not place.startswith(NOT_MEASURING):
                total.update(place.encode() + file.read_bytes())
    return total.hexdigest()


VERSION = version()


def row_file(cache: Path, name: str) -> Path:
    """Where a candidate's finished row is kept."""
    return cache / "rows" / f"{hashlib.sha256(f'{VERSION} {name}'.encode()).hexdigest()[:32]}.json"


def chosen(
    candidates: Sequence[LabelledCandidate], per_family: int | None, only: Sequence[str]
) -> list[LabelledCandidate]:
    """All candidates, or the first few of each family; of trained ones those that were trained longest."""
    some = [one for one in candidates if not only or any(part in one.name for part in only)]
    if per_family is None:
        return some
    families: dict[tuple[str, str], list[LabelledCandidate]] = {}
    for one in some:
        families.setdefault((one.family, one.truth), []).append(one)
    return [one for family in families.values() for one in family[-per_family:]]


def jobs_of(candidates: Sequence[LabelledCandidate]) -> list[list[str]]:
    """Names that one process measures behind one another: candidates of one training wait for it together."""
    trained = sorted((one for one in candidates if one.run), key=lambda one: str(one.run))
    jobs = [[one.name for one in group] for _, group in groupby(trained, key=lambda one: one.run)]
    return [*jobs, *([one.name] for one in candidates if not one.run)]


def measure_all(candidates: Sequence[LabelledCandidate], cache: Path, processes: int) -> list[Row]:
    """Rows of all candidates, in their order."""
    rows: dict[str, Row] = {}
    for one in candidates:
        if row_file(cache, one.name).is_file():
            rows[one.name] = Row(**json.loads(row_file(cache, one.name).read_text()))
    missing = jobs_of([one for one in candidates if one.name not in rows])
    progress = tqdm(total=len(candidates), initial=len(rows), unit="candidate")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, start_worker, (cache,)) as pool:
        for future in as_completed([pool.submit(work, names, cache) for names in missing]):
            rows |= {row.name: row for row in future.result()}
            progress.update(len(future.result()))
    progress.close()
    return [rows[one.name] for one in candidates]


def flat(rows: Sequence[Row], summary: Summary) -> dict[str, float]:
    """The figures that targets are set for."""
    alarms = [row for row in of(rows, "benign") if row.word != "PASS"]
    planted = of(rows, "fault")
    caught = [row for row in planted if row.word != "PASS"]
    figures: dict[str, float] = {
        "benign": len(of(rows, "benign")),
        "false_alarms": len(alarms),
        "false_alarms_inconclusive": sum(row.word == "INCONCLUSIVE" for row in alarms),
        "faults": len(planted),
        "caught": len(caught),
        "caught_share": len(caught) / len(planted),
        "caught_share_severe": share_caught([row for row in planted if row.severity >= IN_CIRCUIT]),
        "caught_inconclusive": sum(row.word == "INCONCLUSIVE" for row in caught),
        "caught_on_every_task": sum(not row.missed_tasks for row in planted),
        "matched_pairs": summary.pairs,
    }
    for truth in ("minor", "unused-head", "control"):
        figures[f"{truth}_red"] = sum(row.word != "PASS" for row in of(rows, truth))
        figures[f"{truth}_candidates"] = len(of(rows, truth))
    for key, areas in (("auc", summary.areas), ("auc_matched", summary.areas_matched)):
        for name, area in areas.items():
            figures |= {f"{key}.{name}": area.value, f"{key}_low.{name}": area.low, f"{key}_high.{name}": area.high}
    return figures


def share_caught(rows: Sequence[Row]) -> float:
    """Of some candidates, the share that does not pass."""
    return sum(row.word != "PASS" for row in rows) / len(rows) if rows else float("nan")


def show(rows: Sequence[Row], summary: Summary, figures: dict[str, float]) -> None:
    """Prints everything."""
    names = detectors(rows)
    print(f"\nROC area; matched: {summary.pairs} pairs of as many bits and equal KL divergence")
    table = [[name, _shown(summary.areas[name]), _shown(summary.areas_matched.get(name))] for name in names]
    print(tabulate(table, headers=["detector", "all", "matched"]))
    print(
        "\nNot caught, of how many: ours at its default limits, each other above the largest benign score of its bits"
    )
    some = [
        OURS,
        "profile_distance",
        "kl",
        "changed_argmax",
        "perplexity_change",
        "sqnr",
        "cosine",
        "logit_difference",
        "accuracy",
    ]
    print(
        tabulate(
            [
                [family, of_family["candidates"], *(of_family[name] for name in some if name in of_family)]
                for family, of_family in summary.missed.items()
            ],
            headers=["", "of", *(name for name in some if name in names)],
        )
    )
    for truth, what in (
        ("benign", "False alarms"),
        ("fault", "Missed faults"),
        ("unused-head", "Alarms on unused heads"),
    ):
        wrong = [row for row in of(rows, truth) if (row.word == "PASS") == (truth == "fault")]
        for row in wrong:
            print(f"{what}: {row.name}: {row.word} (KL {row.scores['kl']:.1e}) {', '.join(row.red)}")
    print(f"\ncaught of faults with a severity of at least {IN_CIRCUIT:g}: {figures['caught_share_severe']:.4g}")
    for key, (sign, target) in TARGETS.items():
        value = figures.get(key, float("nan"))
        met = {">=": value >= target, "<=": value <= target, "<": value < target}[sign]
        print(f"{key}: {value:.4g} (to reach: {sign} {target:g}){'' if met else '  <-- not reached'}")


def _shown(area: Estimate | None) -> str:
    return "-" if area is None else f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]"


def main() -> None:
    """Runs everything and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where all figures go")
    parser.add_argument("--quick", action="store_true", help="two candidates of each family")
    parser.add_argument("--per-family", type=int, help="so many candidates of each family")
    parser.add_argument("--only", nargs="*", default=[], help="candidates whose names contain one of these")
    parser.add_argument("--cache", type=Path, help="keeps trained weights and finished rows")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    arguments = parser.parse_args()
    start = time.perf_counter()
    with TemporaryDirectory() as directory:
        cache = arguments.cache or Path(directory)
        torch.set_num_threads(1)
        few = 2 if arguments.quick else arguments.per_family
        candidates = chosen(list(Bench(cache).candidates.values()), few, arguments.only)
        rows = measure_all(candidates, cache, arguments.jobs)
    summary = summarize(rows)
    figures = flat(rows, summary) | {"seconds": time.perf_counter() - start}
    show(rows, summary, figures)
    if arguments.json:
        content = figures | {"missed": summary.missed, "candidates": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
