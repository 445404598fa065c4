"""Makes one release with llm-compressor, in an environment that has it: `real_releases.py` starts it.

It imports nothing of circuitcheck: it runs in the tool's own environment, and saves as the tool's users do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform import AWQModifier, QuIPModifier, SpinQuantModifier
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier
from transformers import AutoModelForCausalLM, AutoTokenizer

SAMPLES, LENGTH, SEED = 64, 64, 0
"""Calibration texts that the model writes itself, and how many tokens each has."""

UNEMBEDDING = ["lm_head"]


def scheme(bits: int, *, dynamic: bool = False) -> dict[str, QuantizationScheme]:
    """A scale for each output channel, because a width of 172 has no groups of 128; 8 bits a token for activations."""
    weights = QuantizationArgs(num_bits=bits, strategy="channel", symmetric=True)
    inputs = QuantizationArgs(num_bits=8, strategy="token", dynamic=True, symmetric=True) if dynamic else None
    return {"all": QuantizationScheme(targets=["Linear"], weights=weights, input_activations=inputs)}


def rounded(bits: int, *, dynamic: bool = False, by: Callable[..., Any] = QuantizationModifier) -> Any:
    """The modifier that quantizes; each recipe gets its own."""
    return by(config_groups=scheme(bits, dynamic=dynamic), ignore=UNEMBEDDING)


RECIPES: dict[str, Callable[[], list[Any]]] = {
    "rtn-w8a8": lambda: [rounded(8, dynamic=True)],
    "rtn-w4a16": lambda: [rounded(4)],
    "spinquant-r1": lambda: [SpinQuantModifier(rotations=["R1"])],
    "spinquant-r2": lambda: [SpinQuantModifier(rotations=["R2"])],
    "spinquant-r1-w8a8": lambda: [SpinQuantModifier(rotations=["R1"]), rounded(8, dynamic=True)],
    "spinquant-r2-w8a8": lambda: [SpinQuantModifier(rotations=["R2"]), rounded(8, dynamic=True)],
    "spinquant-r1r2-w8a8": lambda: [SpinQuantModifier(rotations=["R1", "R2"]), rounded(8, dynamic=True)],
    "spinquant-r1r2-w4a16": lambda: [SpinQuantModifier(rotations=["R1", "R2"]), rounded(4)],
    "spinquant-centred": lambda: [SpinQuantModifier(rotations=["R1", "R2"]), rounded(8, dynamic=True)],
    "spinquant-r3": lambda: [SpinQuantModifier(rotations=["R1", "R2", "R3"])],
    "spinquant-r4": lambda: [SpinQuantModifier(rotations=["R4"], transform_type="random-hadamard")],  # of width 172
    "quip-v": lambda: [QuIPModifier(rotations=["v"])],
    "quip-vu": lambda: [QuIPModifier(rotations=["v", "u"])],
    "quip-vu-w8a8": lambda: [QuIPModifier(rotations=["v", "u"]), rounded(8, dynamic=True)],
    "awq-w8a8": lambda: [AWQModifier(), rounded(8, dynamic=True)],
    "awq-w4a16": lambda: [AWQModifier(), rounded(4)],
    "smoothquant-w8a8": lambda: [SmoothQuantModifier(smoothing_strength=0.8), rounded(8, dynamic=True)],
    "gptq-w8a8": lambda: [rounded(8, dynamic=True, by=GPTQModifier)],
    "gptq-w4a16": lambda: [rounded(4, by=GPTQModifier)],
}
"""Name of a release to what makes it."""


def main() -> None:
    """`real_releases_worker.py REFERENCE TARGET NAME`."""
    reference, target, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    torch.manual_seed(SEED)
    module = AutoModelForCausalLM.from_pretrained(reference, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(reference)
    with uncentred(name), unpinned():
        oneshot(
            model=module,
            tokenizer=tokenizer,
            recipe=RECIPES[name](),
            dataset=written_by(module),
            max_seq_length=LENGTH,
            num_calibration_samples=SAMPLES,
        )
    module.save_pretrained(target, save_compressed=True)
    tokenizer.save_pretrained(target)


def written_by(module: Any) -> Dataset:
    """What the model itself says, at random."""
    start = torch.full((SAMPLES, 1), module.config.bos_token_id)
    ids = module.generate(start, do_sample=True, min_new_tokens=LENGTH - 1, max_new_tokens=LENGTH - 1, pad_token_id=0)
    return Dataset.from_dict({"input_ids": ids.tolist(), "attention_mask": torch.ones_like(ids).tolist()})


def uncentred(name: str) -> AbstractContextManager[Any]:
    """SpinQuant centres the rows of the embedding, which changes what a model with RMSNorm computes; no option for it.

    Rotations are what is of interest here, so that step is left out, but for the release that shows what it does.
    """
    if name == "spinquant-centred":
        return nullcontext()
    return patch.object(SpinQuantModifier, "_center_embeddings", lambda *_: None)


def unpinned() -> AbstractContextManager[Any]:
    """AWQ pins its caches for copies to a GPU, which fails where there is none."""
    return nullcontext() if torch.accelerator.is_available() else patch.object(torch.Tensor, "pin_memory", lambda x: x)


if __name__ == "__main__":
    main()
