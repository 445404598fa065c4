"""One contestant of `sweep.py` in a process of its own: reads a line, sweeps once, answers with a line of JSON.

Usage: sweep_worker.py CONTESTANT LAYERS HEADS WIDTH. The line holds the heads to ablate: JSON `[[layer, head], ...]`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any, Literal

import torch
from shapes import Shape, build, config, peak_bytes, reset_peak, tokens
from torch import Tensor, nn

Head = tuple[int, int]
Sweep = Callable[[Sequence[Head]], Tensor]
"""Ablates each head alone and returns m(clean) - m(ablated), `[heads, prompts]`."""

BUDGET = 64 * 2**20
"""Bytes that the contestant `budget` may use beside the model."""


def replayed(shape: Shape, memory: int | None = None, engine: Literal["replay", "full"] = "replay") -> Sweep:
    """Ours."""
    from circuitcheck.core.patch import Patch
    from circuitcheck.core.prompts import PromptPair, Task
    from circuitcheck.core.runtime import Work
    from circuitcheck.runtimes.pytorch.loading.load import hook_module

    model = hook_module(build(shape))
    pairs = zip(*(values.tolist() for values in tokens()), strict=True)
    task = Task("random", tuple(PromptPair(tuple(ids), tuple(ids), *rest, cluster="one") for ids, *rest in pairs))

    def sweep(heads: Sequence[Head]) -> Tensor:
        work = Work(memory)
        patch = Patch("head", ((), *((head,) for head in heads)), "zero")
        metric = model.patched(task.prompts(), patch, work, engine=engine)
        assert not work.notes, work.notes
        return torch.from_numpy(metric[0] - metric[1:])

    return sweep


def difference(logits: Tensor, answer: Tensor, foil: Tensor) -> Tensor:
    """The metric from logits `[batch, seq, vocabulary]`."""
    number = torch.arange(len(logits))
    return logits[number, -1, answer] - logits[number, -1, foil]


def plain(shape: Shape, batch: int | None = None) -> Sweep:
    """Full passes of the model as it is, with a hook on the output projection's input."""
    module = build(shape)
    ids, answer, foil = tokens()
    d_head = shape.width // shape.heads

    def run(head: Head | None) -> Tensor:
        parts = []
        for start in range(0, len(ids), batch or len(ids)):
            part = slice(start, start + (batch or len(ids)))
            parts.append(difference(hooked_logits(module, ids[part], head, d_head), answer[part], foil[part]))
        return torch.cat(parts)

    def sweep(heads: Sequence[Head]) -> Tensor:
        clean = run(None)
        return torch.stack([clean - run(head) for head in heads])

    return sweep


def hooked_logits(module: Any, ids: Tensor, head: Head | None, d_head: int) -> Tensor:
    """All logits of a full pass, `[batch, seq, vocabulary]`, with one head's z set to zero."""
    if head is None:
        return module(ids, use_cache=False).logits
    layer, number = head

    def zero(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor]:
        z = arguments[0].clone()
        z[..., number * d_head : (number + 1) * d_head] = 0
        return (z,)

    handle = module.gpt_neox.layers[layer].attention.dense.register_forward_pre_hook(zero)
    try:
        return module(ids, use_cache=False).logits
    finally:
        handle.remove()


def transformerlens(shape: Shape) -> Sweep:
    """TransformerLens's bridge around the same module, all prompts in one batch."""
    from transformer_lens.model_bridge import TransformerBridge

    with tempfile.TemporaryDirectory() as folder:
        config(shape).save_pretrained(folder)
        bridge = TransformerBridge.boot_transformers(folder, hf_model=build(shape))
    ids, answer, foil = tokens()

    def sweep(heads: Sequence[Head]) -> Tensor:
        clean = difference(bridge(ids), answer, foil)
        ablated = []
        for layer, number in heads:

            def zero(z: Tensor, number: int = number, **_: Any) -> Tensor:
                z[:, :, number] = 0
                return z

            logits = bridge.run_with_hooks(ids, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", zero)])
            ablated.append(difference(logits, answer, foil))
        return clean - torch.stack(ablated)

    return sweep


CONTESTANTS: dict[str, Callable[[Shape], Sweep]] = {
    "ours": replayed,
    "budget": lambda shape: replayed(shape, memory=BUDGET),
    "full": plain,
    "full, last logits": lambda shape: replayed(shape, engine="full"),
    "single": lambda shape: plain(shape, batch=1),
    "transformerlens": transformerlens,
}


def peak_flops() -> float:
    """Floating-point operations a second of a large float32 matrix product."""
    size = 2048
    a, b, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def main() -> None:
    """Answers one line for every line read."""
    name, shape = sys.argv[1], Shape("", *map(int, sys.argv[2:5]))
    answers = sys.stdout
    with redirect_stdout(sys.stderr), torch.no_grad():
        if name == "peak":
            sweep = None
        else:
            sweep = CONTESTANTS[name](shape)
            sweep([(0, 0)])
            reset_peak()
        before = peak_bytes()
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            heads = [tuple(head) for head in json.loads(line)]
            start = time.perf_counter()
            result: Any = peak_flops() if sweep is None else sweep(heads)
            seconds = time.perf_counter() - start
            values = result.tolist() if isinstance(result, Tensor) else result
            answer = {"seconds": seconds, "result": values, "peak": peak_bytes(), "growth": peak_bytes() - before}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
