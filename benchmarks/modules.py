"""Faults in MLPs, and parts of attention replaced: seen, and where? `python benchmarks/modules.py --json FILE`.

Each fault is planted into a reference that is then rounded plainly to the precision that it claims. Three gates look
at it, of heads, of whole modules and of neurons, beside candidates that are only rounded. Where the head gate finds
damage, the module that leaves least when it alone is repaired is held against the one that the fault is in.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from detection import surgery
from tabulate import tabulate
from torch import nn

from circuitcheck import HookedModel, MeasurementSpec, load_model, load_task, record_reference
from circuitcheck.baseline.baseline import Baseline
from circuitcheck.baseline.names import baseline_file
from circuitcheck.core.prompts import Task
from circuitcheck.gate.decide import decide
from circuitcheck.runtimes.pytorch.ports.down_projections import down_projections
from circuitcheck.runtimes.pytorch.quantizers.rtn import quantize_rtn

KINDS = ("head", "block", "neuron")


@dataclass(frozen=True)
class Fault:
    """What is wrong with a candidate.

    Attributes:
        name: in words.
        bits: that it claims.
        module: label of the module that it is in; None for a benign candidate.
        edit: plants it; benign ones need none.
        places: whether it is one of those whose place is asked for.
    """

    name: str
    bits: int
    module: str | None = None
    edit: Callable[[nn.Module], None] | None = None
    places: bool = False


def mlp_maps(model: HookedModel, layer: int) -> list[str]:
    """Paths of all linear maps of a layer's MLP, the last one back to the residual stream."""
    site = model.structure.layers[layer]
    (down,) = (neurons.module for neurons in down_projections(model.module, site))
    paths = [path for path in surgery.paths_of(model.module, layer) if path.startswith(f"{site.mlp}.")]
    return [*(path for path in paths if path != down), down]


def faults(model: HookedModel, ids: torch.Tensor) -> Iterator[Fault]:
    """The faults of the power benchmark that heads alone miss, planted MLP faults, and benign candidates."""
    layers = len(model.structure.layers)
    for layer in range(layers):
        first, down = (lambda maps: (maps[0], maps[-1]))(mlp_maps(model, layer))
        late = layer >= layers - 2
        for path in (first, down):
            yield Fault(
                f"{path} at 3 bits", 8, f"mlp {layer}", partial(surgery.round_projection, path=path, bits=3), late
            )
            yield Fault(f"{path} at 2 bits", 8, f"mlp {layer}", partial(surgery.round_projection, path=path, bits=2))
        yield Fault(f"a quarter of {down} doubled", 8, f"mlp {layer}", partial(_scaled, path=down))
    path = mlp_maps(model, layers - 1)[-1]
    yield Fault(f"{path} at 2 bits", 4, f"mlp {layers - 1}", partial(surgery.round_projection, path=path, bits=2), True)
    yield Fault(
        "a third of layer 0's attention replaced by its mean", 4, "attention 0", partial(_averaged, ids=ids), True
    )
    for bits in (8, 4):
        yield Fault(f"rounded to {bits} bits", bits)
        yield Fault(f"rounded to {bits} bits at random", bits, None, None, True)


def _scaled(module: nn.Module, path: str) -> None:
    rows = module.get_submodule(path).weight.shape[0]
    surgery.scale_block(module, path, slice(0, rows // 4), slice(None), 2.0)


def _averaged(module: nn.Module, ids: torch.Tensor) -> None:
    surgery.replace_by_mean(module, 0, 0.3, ids)


def candidate(model: HookedModel, fault: Fault) -> HookedModel:
    """The reference with the fault, rounded."""
    module = deepcopy(model.module)
    if fault.edit is not None:
        fault.edit(module)
    at_random = 77 if fault.name.endswith("at random") else None
    quantize_rtn(module, model.structure, fault.bits, stochastic_seed=at_random)
    precision = f"int{fault.bits}-rtn"
    return replace(model, module=module, precision=precision, name=fault.name, proven=WeakKeyDictionary())


def baseline_of(model: HookedModel, task: Task, kind: str, folder: Path | None) -> Baseline:
    """The stored baseline, or one that knows what rounding to 8 and 4 bits does."""
    file = None if folder is None else baseline_file(folder, task.name, kind)
    if file is not None and file.exists():
        return Baseline.load(file)
    roundings = [way for way in model.roundings() if way.precision in ("8-bit", "4-bit")]
    return record_reference(
        model, task, MeasurementSpec(unit=kind), kinds=("resample",), sources=(), roundings=roundings
    )


def main() -> None:
    """Plants, gates, and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument(
        "--only", choices=("missed", "placed"), help="those of the power benchmark, or all with a place"
    )
    parser.add_argument("--baselines", type=Path, help="a folder of the model's, for kinds that it has")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(options.model)
    task = load_task(options.task, model.tokenizer, vocabulary=model.facts.vocabulary)
    ids = torch.tensor([pair.clean for pair in task.pairs if len(pair.clean) == len(task.pairs[0].clean)])
    baselines = {kind: baseline_of(model, task, kind, options.baselines) for kind in options.kinds.split(",")}
    rows: list[dict[str, Any]] = []
    for fault in faults(model, ids):
        if options.only == "missed" and not fault.places and fault.module:
            continue
        if options.only == "placed" and (fault.module is None or not fault.module.startswith("mlp")):
            continue
        row: dict[str, Any] = {"fault": fault.name, "bits": fault.bits, "module": fault.module, "missed": fault.places}
        for kind, baseline in baselines.items():
            start = time.process_time()
            verdict = decide(candidate(model, fault), baseline)
            circuit = verdict.measurement.circuit
            red = [criterion.name for criterion in verdict.criteria if criterion.verdict == "FAIL"]
            row[kind] = {"verdict": verdict.word, "red": red, "seconds": time.process_time() - start}
            if circuit is not None and circuit.placing is not None:
                order = sorted(circuit.placing.modules, key=lambda module: module.left)
                row["order"] = [(module.unit, round(module.left, 4)) for module in order]
        rows.append(row)
        print(json.dumps(row), flush=True)
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(_table(rows, list(baselines)))


def _table(rows: list[dict[str, Any]], kinds: list[str]) -> str:
    shown = [[row["fault"], row["bits"], *(row[kind]["verdict"] for kind in kinds), *_placed(row)] for row in rows]
    return tabulate(shown, ["fault", "bits", *kinds, "leaves least", "is it"], tablefmt="github")


def _placed(row: dict[str, Any]) -> tuple[str, str]:
    if not row.get("order"):
        return "no damage", ""
    first, left = row["order"][0]
    return f"{first} {left:.0%}", "yes" if first == row["module"] else "no"


if __name__ == "__main__":
    main()
