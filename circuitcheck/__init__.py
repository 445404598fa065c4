"""Does a quantized transformer still compute the same way? A pytest regression suite for circuit preservation.

from circuitcheck import decide, load_model, load_task, record_reference, render

task = load_task("ioi", load_model("embedded").tokenizer)
baseline = record_reference(load_model("embedded"), task)
print(render([decide(load_model("embedded", "int8-sim"), baseline)]))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from circuitcheck.core.garbage import without_collecting

if TYPE_CHECKING:
    from circuitcheck.baseline.baseline import Baseline
    from circuitcheck.core.errors import CircuitcheckError
    from circuitcheck.core.prompts import PromptPair, Task
    from circuitcheck.core.results import Measurement, Verdict
    from circuitcheck.core.specification import MeasurementSpec
    from circuitcheck.dictionaries.read import read_dictionaries
    from circuitcheck.gate.decide import decide
    from circuitcheck.gate.judge import judge
    from circuitcheck.gate.measure import measure
    from circuitcheck.gate.record import record_reference
    from circuitcheck.report.text import render
    from circuitcheck.runtimes.choose import load_candidate
    from circuitcheck.runtimes.pytorch.hooked import HookedModel
    from circuitcheck.runtimes.pytorch.loading.load import hook_module, load_model
    from circuitcheck.tasks.named import load_task
    from circuitcheck.verdict.limits import Limits

_HOMES = {
    "Baseline": "circuitcheck.baseline.baseline",
    "CircuitcheckError": "circuitcheck.core.errors",
    "HookedModel": "circuitcheck.runtimes.pytorch.hooked",
    "Limits": "circuitcheck.verdict.limits",
    "Measurement": "circuitcheck.core.results",
    "MeasurementSpec": "circuitcheck.core.specification",
    "PromptPair": "circuitcheck.core.prompts",
    "Task": "circuitcheck.core.prompts",
    "Verdict": "circuitcheck.core.results",
    "decide": "circuitcheck.gate.decide",
    "hook_module": "circuitcheck.runtimes.pytorch.loading.load",
    "judge": "circuitcheck.gate.judge",
    "load_candidate": "circuitcheck.runtimes.choose",
    "load_model": "circuitcheck.runtimes.pytorch.loading.load",
    "load_task": "circuitcheck.tasks.named",
    "measure": "circuitcheck.gate.measure",
    "read_dictionaries": "circuitcheck.dictionaries.read",
    "record_reference": "circuitcheck.gate.record",
    "render": "circuitcheck.report.text",
}

__all__ = [
    "Baseline",
    "CircuitcheckError",
    "HookedModel",
    "Limits",
    "Measurement",
    "MeasurementSpec",
    "PromptPair",
    "Task",
    "Verdict",
    "decide",
    "hook_module",
    "judge",
    "load_candidate",
    "load_model",
    "load_task",
    "measure",
    "read_dictionaries",
    "record_reference",
    "render",
]


def __getattr__(name: str) -> Any:
    """Imports a name when it is first used: every pytest run imports this package, and few need torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with without_collecting():
        return getattr(import_module(_HOMES[name]), name)
