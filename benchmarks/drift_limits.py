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
    seen: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
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
            writes, z = (np.array([getattr(unit, key) for unit in circuit.units]) for key in ("drift", "drift_z"))
            seen[SAME_BITS.get(spec, spec)].append((np.median(z), np.median(writes), z.max(), writes.max()))
            print(f"{source}, {name}, {spec}: median {np.median(writes):.4f}, largest {writes.max():.4f}", flush=True)
    rows = [
        [precision, *np.max(found, axis=0), DRIFT_LIMITS[precision].median, DRIFT_LIMITS[precision].largest]
        for precision, found in seen.items()
    ]
    headers = ["precision", "median z", "median write", "largest z", "largest write", "limit", "limit"]
    print(tabulate(rows, headers, floatfmt=".4f"))


if __name__ == "__main__":
    main()
