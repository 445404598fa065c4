"""Which kernels ONNX Runtime runs a graph with, as it was shipped and as it is cut."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from circuitcheck.core.phrases import listed
from circuitcheck.runtimes.onnx.execution import executed_by
from circuitcheck.runtimes.onnx.inputs import PROBE_TOKENS
from circuitcheck.runtimes.onnx.ort_session import make_session
from circuitcheck.runtimes.onnx.runner import NOTHING, Runner

ADDED = ("Where", "Reshape", "Shape", "Concat", "Cast", "Gather", "QuantizeLinear", "DequantizeLinear", "Constant")
"""What a cut is made of."""

TELLING = ("MatMul", "Gemm", "Attention")
"""What kernels are called that do most of the work, and of which each form of release has its own."""

TOLD = 8
"""Kinds of kernels that a note names."""


def kernel_notes(runner: Runner, kind: str = "head") -> tuple[str, ...]:
    """What runs the model, which kernels, and what the cut has changed of them."""
    shipped = kernels(runner, runner.network.graph.model, {})
    feed: dict[str, Any] = {}
    for port in runner.ports(kind):
        feed |= {port.part("mask"): NOTHING[0], port.part("value"): NOTHING[1]}
    cut = kernels(runner, runner.cut(kind), feed)
    added, other = Counter[str](), list[str]()
    for name in sorted(shipped | cut):
        difference = cut[name] - shipped[name]
        if difference > 0 and name in ADDED:
            added[name] = difference
        elif difference:
            other.append(f"{name} {shipped[name]} -> {cut[name]}")
    telling = Counter({name: count for name, count in shipped.items() if any(part in name for part in TELLING)})
    rest = sum(shipped.values()) - sum(telling.values())
    more = listed((f"{name} {count}" for name, count in added.most_common()), len(ADDED))
    notes = [
        f"Executed by {executed_by()}, with all optimizations: {_counted(telling)} and {rest} other kernels; the cut, "
        f"by which {kind}s are read and replaced, adds {more} and changes {'nothing else' if not other else 'others'}."
    ]
    if other:
        notes.append(f"The cut changes which kernels run: {listed(other, TOLD)}.")
    return tuple(notes)


def _counted(found: Counter[str]) -> str:
    return listed((f"{name} {count}" for name, count in found.most_common()), TOLD)


def kernels(runner: Runner, model: Any, feed: dict[str, Any]) -> Counter[str]:
    """How often each kind of kernel runs in one pass of the optimized graph."""
    with tempfile.TemporaryDirectory(prefix="circuitcheck-") as folder:
        session = make_session(model, runner.network.graph.weights, profile=Path(folder) / "kernels")
        ids = np.zeros((1, PROBE_TOKENS), np.int64)
        session.run(list(runner.network.outputs), runner.network.inputs.feed(ids) | feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return Counter(
        event["args"]["op_name"]
        for event in events
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time")
    )
