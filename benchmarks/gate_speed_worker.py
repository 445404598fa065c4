"""What `gate_speed.py` runs in processes of their own, also of earlier commits: `record`, or `passes SHAPE`."""

from __future__ import annotations

import inspect
import json
import resource
import sys
from collections.abc import Callable
from statistics import median
from typing import Any

PROMPTS, CLUSTERS = 64, 8
TASKS = ("ioi", "facts", "induction")


def record() -> None:
    """Records the embedded model's circuits on 64 prompts each, without what rounding does to it."""
    from circuitcheck import load_model, load_task, record_reference

    options = {"roundings": ()} if "roundings" in inspect.signature(record_reference).parameters else {}
    model = load_model("embedded")
    for name in TASKS:
        record_reference(model, load_task(name, model.tokenizer, prompts=PROMPTS), **options)


def passes(shape: str) -> None:
    """Prints the CPU time of recording and of gating in clean passes, the last of several times each.

    `recording` is without the `noise` of its repetitions, and both without what rounding does to the model, which
    recording measures as well. All 64 prompts are solved, and drift is read of 32 of them. The candidate is a copy of
    the reference, all of whose hooks are proven anew.
    """
    import torch
    from shapes import SHAPES, build, tokens

    from circuitcheck.core.prompts import PromptPair, Task
    from circuitcheck.gate.judge import judge
    from circuitcheck.gate.measure import measure
    from circuitcheck.gate.record import record_reference
    from circuitcheck.runtimes.pytorch.loading.load import hook_module
    from circuitcheck.verdict.limits import limits_for

    reference = hook_module(build(SHAPES[shape]), name=shape)
    ids, _, _ = tokens(PROMPTS)
    with torch.no_grad():
        logits = torch.cat([reference.module(row[None], use_cache=False).logits[:, -1] for row in ids])
    answers, foils = logits.argmax(-1).tolist(), logits.argmin(-1).tolist()
    other = ids.clone()
    other[:, 2] = (other[:, 2] + 1) % 50_000
    task = Task(
        "random",
        tuple(
            PromptPair(tuple(clean), tuple(changed), answer, foil, f"template {number % CLUSTERS}")
            for number, (clean, changed, answer, foil) in enumerate(
                zip(ids.tolist(), other.tolist(), answers, foils, strict=True)
            )
        ),
    )
    prompts = task.prompts()
    clean = median(_cpu(lambda: reference.metric(prompts)) for _ in range(5))
    made: dict[str, Any] = {}

    def recorded(**options: Any) -> None:
        made["baseline"] = record_reference(reference, task, **options)

    bare = _cpu(lambda: recorded(roundings=(), sources=()))
    with_noise = _cpu(lambda: recorded(roundings=()))
    candidate = hook_module(build(SHAPES[shape]), name=f"{shape}-copy")

    def gated() -> None:
        judge(measure(candidate, made["baseline"]), limits_for("f32", "random"))

    gating = _cpu(gated)
    found = {"recording": bare / clean, "noise": (with_noise - bare) / clean, "gating": gating / clean}
    print(json.dumps(found))


def _cpu(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    if sys.argv[1] == "record":
        record()
    else:
        passes(sys.argv[2])
