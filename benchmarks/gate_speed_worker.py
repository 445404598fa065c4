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
    recording measures as well. `without later` leaves out what came later than the figures to reach: placing damage by
    layer and module, and next tokens for KL divergence and changed answers. All 64 prompts are solved, and drift is
    read of 32 of them. Candidates are copies of the reference, all of whose hooks are proven anew.
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

    def copy() -> Any:
        return hook_module(build(SHAPES[shape]), name=f"{shape}-copy")

    baseline, candidate = made["baseline"], copy()
    gating = _cpu(lambda: judge(measure(candidate, baseline), limits_for("f32", "random")))
    counts = {"recording": bare, "noise": with_noise - bare, "gating": gating}
    if hasattr(baseline, "beside"):
        counts |= _without_later(copy(), copy(), baseline, bare)
    print(json.dumps({name: seconds / clean for name, seconds in counts.items()}))


def _without_later(reference: Any, candidate: Any, baseline: Any, recording: float) -> dict[str, float]:
    """Recording and gating without what came later than the figures to reach, in CPU seconds."""
    from dataclasses import replace

    from circuitcheck.core.runtime import Work
    from circuitcheck.gate.measure import measure
    from circuitcheck.gate.record import _beside

    modules = _cpu(lambda: _beside(reference, baseline.part, baseline.spec, Work()))
    tokens = _cpu(lambda: reference.next_token(baseline.solved_prompts))
    gating = _cpu(lambda: measure(candidate, replace(baseline, beside=None, next_token=None)))
    return {"recording without later": recording - modules - tokens, "gating without later": gating}


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
