"""Which share of features survives rounding and faults: `python benchmarks/feature_survival.py --json FILE`.

The limit on survival is a share of what the recorded ways to round leave. This asks of two models, each with a
dictionary that was trained by the same script, what other ways to round leave of it, which are benign, and what faults
at or before the dictionary's layer leave.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from detection.subjects import load, sampled
from modules import candidate, faults
from tabulate import tabulate

from circuitcheck import HookedModel, MeasurementSpec, load_model, record_reference
from circuitcheck.core.prompts import Task
from circuitcheck.dictionaries.dictionary import Dictionary, HookPoint
from circuitcheck.dictionaries.read import read_dictionaries
from circuitcheck.embedded.train_dictionary import K, train
from circuitcheck.gate.decide import decide
from circuitcheck.runtimes.pytorch.loading.load import hook_module
from circuitcheck.runtimes.pytorch.quantizers.rtn import quantize_rtn

LAYER, TEXTS, LENGTH = 2, 4, 200
"""Where the other model's dictionary stands, and how many batches of how many tokens it is trained on."""

BENIGN = tuple((bits, group, seed) for bits in (8, 4) for group in (2**31, 32, 64) for seed in (77,)) + tuple(
    (bits, 64, None) for bits in (8, 4)
)
"""Bits, inputs that share a scale, and seed of stochastic rounding: none of them is among the recorded ways."""


def embedded() -> tuple[HookedModel, Task]:
    """The embedded model with its dictionary, and its task."""
    subject = load("embedded", Path())
    model = load_model("embedded", device="cpu")
    return model.with_dictionaries(read_dictionaries("embedded")), subject.tasks["ioi"].gate


def stories(steps: int, cache: Path) -> tuple[HookedModel, Task]:
    """Stories260k with a dictionary of the stream behind layer 2, trained on what it says itself."""
    subject = load("stories260k", cache)
    with torch.no_grad():
        streams = [
            subject.module(ids, output_hidden_states=True).hidden_states[LAYER + 1][:, 1:]
            for ids in islice(sampled(subject.module, 0, length=LENGTH), TEXTS)
        ]
    weights = {name: value.numpy() for name, value in train(torch.cat(streams).flatten(0, 1), steps).items()}
    point = HookPoint(LAYER, "resid_post")
    dictionary = Dictionary(
        name="stories260k",
        architecture="topk",
        reads=point,
        writes=point,
        encoder=weights["W_enc"],
        bias=weights["b_enc"] - weights["b_dec"] @ weights["W_enc"],
        threshold=np.zeros(len(weights["W_dec"]), np.float32),
        decoder=weights["W_dec"],
        decoder_bias=weights["b_dec"],
        k=K,
    )
    model = hook_module(subject.module, name="stories260k")
    return model.with_dictionaries([dictionary]), subject.tasks["names"].gate


def candidates(model: HookedModel, task: Task) -> Iterator[tuple[str, int, bool, HookedModel]]:
    """Name, bits, whether it is a fault, and the candidate."""
    for bits, group, seed in BENIGN:
        module = deepcopy(model.module)
        quantize_rtn(module, model.structure, bits, group_size=group, stochastic_seed=seed)
        size = "a channel" if group > 2**20 else f"groups of {group}"
        name = f"{size}, {'to nearest' if seed is None else f'stochastic {seed}'}"
        made = replace(model, module=module, precision=f"int{bits}-rtn", name=name, proven=WeakKeyDictionary())
        yield name, bits, False, made
    ids = torch.tensor([pair.clean for pair in task.pairs if len(pair.clean) == len(task.pairs[0].clean)])
    for fault in faults(model, ids):
        if fault.module is not None and int(fault.module.rpartition(" ")[2]) <= LAYER:
            yield fault.name, fault.bits, True, candidate(model, fault)


def main() -> None:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000, help="of training (default: %(default)s)")
    parser.add_argument("--models", default="embedded,stories260k")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name in options.models.split(","):
        model, task = embedded() if name == "embedded" else stories(options.steps, Path("cache"))
        ways = [way for way in model.roundings() if way.precision in ("8-bit", "4-bit")]
        spec = MeasurementSpec(unit="feature")
        baseline = record_reference(model, task, spec, kinds=("resample",), sources=(), roundings=ways)
        print(f"{name}: explained {[one.explained for one in baseline.features.dictionaries]}", flush=True)
        for what, bits, is_fault, made in candidates(model, task):
            verdict = decide(made, baseline, curves=False)
            found = verdict.measurement.circuit.features
            row = {"model": name, "candidate": what, "bits": bits, "fault": is_fault, "verdict": verdict.word}
            row |= {"surviving": found.surviving.value, "low": found.surviving.low, "high": found.surviving.high}
            row["red"] = [one.name for one in verdict.criteria if one.verdict == "FAIL"]
            rows.append(row | {"expected": found.expected, "share": found.surviving.value / found.expected})
            print(json.dumps(rows[-1]), flush=True)
            options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(summary(rows))


def summary(rows: list[dict[str, Any]]) -> str:
    """By model, bits and kind of candidate: how many, and what share of what rounding leaves they leave."""
    table = []
    for key in dict.fromkeys((row["model"], row["bits"], row["fault"]) for row in rows):
        shares = [row["share"] for row in rows if (row["model"], row["bits"], row["fault"]) == key]
        model, bits, is_fault = key
        table.append([model, bits, "faults" if is_fault else "benign", len(shares), min(shares), max(shares)])
    headings = ("model", "bits", "candidates", "number", "least share", "most")
    return tabulate(table, headings, tablefmt="github", floatfmt=".2f")


if __name__ == "__main__":
    main()
