"""What one NVIDIA GPU does, in at most eight minutes: `python benchmarks/device.py --json FILE`.

In this order, as far as the time reaches, and what it does not reach is named: the tests that need CUDA; exact sweeps
of all heads of random models of Pythia's shapes in float32 and bfloat16, against batched full passes and, where it is
installed, TransformerLens, with the share that they reach of the peak of large matrix products in the same process; and
torchao's int8 on the device. TF32 is off. `--dry-run` does the same on the CPU with tiny shapes, to see that it would.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import shapes
import torch
from torch import nn

from circuitcheck.core.errors import CircuitcheckError
from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.core.runtime import Work
from circuitcheck.runtimes.pytorch.engine.sweep import Engine
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.load import hook_module, load_model

ROOT = Path(__file__).parents[1]
SHAPES = [
    shapes.Shape("pythia-70m", 6, 8, 512),
    shapes.Shape("pythia-410m", 24, 16, 1024),
    shapes.Shape("pythia-1.4b", 24, 16, 2048),
]
TINY = [shapes.Shape("tiny", 2, 4, 32)]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MOST_SECONDS = 480
TEST_SECONDS = 120
SUBSET = 12
"""Heads that full passes and TransformerLens measure; each costs the same, so their time is scaled up."""

FINDINGS = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, ImportError, OSError, AssertionError)
"""What a library or a kernel raises; it is written down, and the other parts go on."""

PEAK_SIZE = {"cuda": 8192, "cpu": 512}


class Clock:
    """How much of the time is left, and what was left out for it."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.left_out: list[str] = []

    def allows(self, what: str, seconds: float) -> bool:
        """Whether a part that takes about so long may start."""
        if time.monotonic() + seconds <= self.end:
            return True
        self.left_out.append(what)
        return False


def timed(device: torch.device, run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a run that has ended on the device, and what it gave; it runs once before, to warm up."""
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    found = run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, found


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large product."""
    size = PEAK_SIZE[device.type]
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(timed(device, lambda: left @ right)[0] for _ in range(3))


def task() -> Task:
    """Random prompts, as the other benchmarks have them."""
    pairs = zip(*(values.tolist() for values in shapes.tokens()), strict=True)
    return Task("random", tuple(PromptPair(tuple(ids), tuple(ids), *rest, cluster="one") for ids, *rest in pairs))


def sweep(model: HookedModel, heads: Sequence[Any], engine: Engine = "replay") -> tuple[Any, list[str]]:
    """M with each head ablated alone, `[heads, prompts]`, and notes."""
    work = Work()
    found = model.patched(
        task().prompts(), Patch("head", tuple((head,) for head in heads), "zero"), work, engine=engine
    )
    return found, work.notes


def transformerlens(
    module: nn.Module, shape: shapes.Shape, heads: Sequence[tuple[int, int]], device: torch.device
) -> Any:
    """A run of TransformerLens's bridge around the same module, all prompts in one batch."""
    from transformer_lens.model_bridge import TransformerBridge

    with tempfile.TemporaryDirectory() as folder:
        shapes.config(shape).save_pretrained(folder)
        bridge = TransformerBridge.boot_transformers(folder, hf_model=module)
    ids = shapes.tokens()[0].to(device)

    def run() -> None:
        for layer, number in heads:

            def zero(z: torch.Tensor, number: int = number, **_: Any) -> torch.Tensor:
                z[:, :, number] = 0
                return z

            bridge.run_with_hooks(ids, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", zero)])

    return run


def compare(shape: shapes.Shape, dtype: str, device: torch.device) -> dict[str, Any]:
    """One shape in one type."""
    from transformers import GPTNeoXForCausalLM

    torch.manual_seed(0)
    with device:
        module = GPTNeoXForCausalLM(shapes.config(shape)).to(DTYPES[dtype]).eval()
    model = hook_module(module, precision="f32" if dtype == "float32" else "bf16")
    every = list(model.layout("head").units)
    some = every[:: max(1, len(every) // SUBSET)]
    scale = len(every) / len(some)
    ours, (found, notes) = timed(device, lambda: sweep(model, every))
    full, (expected, _) = timed(device, lambda: sweep(model, some, "full"))
    highest = peak(device, DTYPES[dtype])
    answer = {
        "heads": len(every),
        "seconds": ours,
        "seconds_of_full_passes": scale * full,
        "ratio_vs_full": scale * full / ours,
        "peak_tflops": highest / 1e12,
        "peak_share": shapes.needed_flops(shape) / ours / highest,
        "max_difference": float(abs(found[:: max(1, len(every) // SUBSET)] - expected).max()),
        "notes": notes,
    }
    if find_spec("transformer_lens") is not None:
        with torch.no_grad():
            theirs = scale * timed(device, transformerlens(module, shape, some, device))[0]
        answer |= {"seconds_of_transformerlens": theirs, "ratio_vs_transformerlens": theirs / ours}
    return answer


def int8(shape: shapes.Shape, device: torch.device) -> dict[str, Any]:
    """Torchao's dynamic int8 on the device: whether it runs, how fast, and how far its metric is from float32."""
    with tempfile.TemporaryDirectory() as folder:
        shapes.build(shape).save_pretrained(folder)
        reference = load_model(folder, device=str(device))
        candidate = load_model(folder, "int8", device=str(device)).probed(task().prompts())
    heads = list(reference.layout("head").units)
    seconds, (found, notes) = timed(device, lambda: sweep(candidate, heads))
    expected, _ = sweep(reference, heads)
    assert candidate.census is not None
    return {
        "quantized": candidate.census.quantized,
        "projections": candidate.census.projections,
        "seconds": seconds,
        "batch_size": candidate.batch_size,
        "mean_difference": float(abs(found - expected).mean()),
        "notes": [*candidate.notes, *notes],
    }


def cuda_tests(*, is_dry: bool) -> dict[str, Any]:
    """The tests that need CUDA; a dry run only collects them."""
    tests = ROOT / "tests" / "runtimes_pytorch" / "engine" / "test_sweep_on_cuda.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    try:
        ended = subprocess.run(
            [*command, *(["--collect-only"] if is_dry else [])],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=TEST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"exit_code": None, "last_line": f"stopped after {TEST_SECONDS} seconds"}
    lines = ended.stdout.strip().splitlines()
    return {"exit_code": ended.returncode, "last_line": lines[-1] if lines else ""}


def attempt(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a part gave, or how it failed; the others go on."""
    try:
        return run()
    except (*FINDINGS, CircuitcheckError) as error:
        return {"failed": f"{type(error).__name__}: {error}"[:500]}
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def measure(device: torch.device, clock: Clock, *, is_dry: bool) -> dict[str, Any]:
    """Everything, as far as the time reaches."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    some = TINY if is_dry else SHAPES
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu, a dry run",
        "torch": torch.__version__,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "sweeps": {},
    }
    if clock.allows("tests", TEST_SECONDS):
        results["tests"] = attempt(lambda: cuda_tests(is_dry=is_dry))
    for shape in some:
        for dtype in DTYPES:
            name = f"{shape.name} {dtype}"
            # Twice each, by what a slow GPU does; the largest takes half a minute or so to be made alone.
            if clock.allows(name, 10 + shape.n_heads * shape.width / 10_000):
                results["sweeps"][name] = attempt(lambda shape=shape, dtype=dtype: compare(shape, dtype, device))
                print(name, json.dumps(results["sweeps"][name]), flush=True)
    if find_spec("torchao") is not None and clock.allows("int8", 30):
        results["int8"] = attempt(lambda: int8(some[0], device))
    return results | {"left_out": clock.left_out}


def main() -> None:
    """Measures, prints and writes one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where all figures go")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with tiny shapes")
    parser.add_argument("--seconds", type=float, default=MOST_SECONDS, help="the most that it may take")
    arguments = parser.parse_args()
    if not arguments.dry_run and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --dry-run tries the script on the CPU")
    device = torch.device("cpu" if arguments.dry_run else "cuda")
    results = measure(device, Clock(arguments.seconds), is_dry=arguments.dry_run)
    text = json.dumps(results, indent=1, sort_keys=True)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
