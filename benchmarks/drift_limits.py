"""What plain rounding does to the writes of the models at hand, from which the limits on drift are taken.

    python benchmarks/drift_limits.py [--model DIR TASK.jsonl]...

The embedded model on its three tasks, and any other directory with a task. Each precision's candidates are made from
the reference, by nobody's special care: a limit is the largest drift that was seen of any of them, on any model and
task, times a headroom that is the same for all precisions.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from tabulate import tabulate

from circuitcheck import load_model, load_task, measure, record_reference
from circuitcheck.core.candidates import DEFAULT_CANDIDATES, RTN, TORCHAO
from circuitcheck.core.errors import CircuitcheckError
from circuitcheck.verdict.limits import DRIFT_LIMITS, SAME_BITS

SPECS = (*DEFAULT_CANDIDATES[1:], *RTN, *TORCHAO, "bnb-int8", "bnb-nf4")


def cases(others: list[list[str]]) -> Iterator[tuple[str, str]]:
    """Model and task."""
    yield from (("embedded", task) for task in ("ioi", "facts", "induction"))
    yield from ((model, task) for model, task in others)


def main() -> None:
    """Measures every precision on every model and task, and prints the largest of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs=2, metavar=("DIR", "TASK"), action="append", default=[])
    seen: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for source, name in cases(parser.parse_args().model):
        reference = load_model(source)
        task = load_task(name, reference.tokenizer, vocabulary=reference.facts.vocabulary)
        baseline = record_reference(reference, task, kinds=("resample",), sources=())
        for spec in SPECS:
            try:
                circuit = measure(load_model(source, spec), baseline, curves=False).circuit
            except CircuitcheckError as error:
                print(f"{source}, {name}, {spec}: {error}")
                continue
            assert circuit is not None, f"{source} does not solve {name}"
            z = np.array([unit.drift_z for unit in circuit.units])
            median, largest = circuit.drift_median, circuit.drift_largest
            figures = (np.median(z), median.value, median.high, z.max(), largest.value, largest.high)
            seen[SAME_BITS.get(spec, spec)].append(figures)
            print(f"{source}, {name}, {spec}: " + ", ".join(f"{value:.4f}" for value in figures), flush=True)
    rows = [
        [precision, *np.max(found, axis=0), DRIFT_LIMITS[precision].median, DRIFT_LIMITS[precision].largest]
        for precision, found in seen.items()
    ]
    sides = [f"{which} {what}" for which in ("median", "largest") for what in ("z", "write", "its upper end")]
    headers = ["precision", *sides, "limit", "limit"]
    print(tabulate(rows, headers, floatfmt=".4f"))


if __name__ == "__main__":
    main()
