"""Models of Pythia's shapes with random weights, the prompts they run, and what a sweep of them must compute."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

PROMPTS, SEQ, VOCABULARY = 16, 16, 50_304


@dataclass(frozen=True)
class Shape:
    """A GPT-NeoX shape; attention and MLP run side by side, as in every Pythia."""

    name: str
    layers: int
    heads: int
    width: int

    @property
    def n_heads(self) -> int:
        """Heads of all layers."""
        return self.layers * self.heads


SHAPES = {
    shape.name: shape
    for shape in (Shape("pythia-70m", 6, 8, 512), Shape("pythia-160m", 12, 12, 768), Shape("pythia-410m", 24, 16, 1024))
}
GROWTH = {
    "layers": [Shape(f"{layers} layers", layers, 8, 512) for layers in (3, 6, 12)],
    "heads": [Shape(f"{heads} heads", 6, heads, 512) for heads in (4, 8, 16)],
}
"""Shapes of one width, to see how time grows in the number of layers and in the number of heads alone."""


def build(shape: Shape) -> nn.Module:
    """The model, with the same random weights in every process that runs the same library versions."""
    from transformers import GPTNeoXForCausalLM

    torch.manual_seed(0)
    return GPTNeoXForCausalLM(config(shape)).eval()


def config(shape: Shape) -> PreTrainedConfig:
    """Its Hugging Face configuration."""
    from transformers import GPTNeoXConfig

    return GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.width,
        attn_implementation="eager",
    )


def tokens(prompts: int = PROMPTS) -> tuple[Tensor, Tensor, Tensor]:
    """Random token ids `[prompts, SEQ]`, answers and foils `[prompts]`."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(VOCABULARY, (prompts, SEQ), generator=generator)
    answer, foil = torch.randint(VOCABULARY, (2, prompts), generator=generator)
    return ids, answer, foil


def needed_flops(shape: Shape, prompts: int = PROMPTS) -> int:
    """Floating-point operations of the matrix products that a sweep over all heads needs.

    One clean pass. For each head and prompt: the output projection in its own layer, since the MLP beside it does not
    change; all of every later layer but the last; of the last one the fused query, key and value of every position,
    and everything else of the last position; and two rows of the unembedding. No proof, norm, activation or sum is
    counted.
    """
    width = shape.width
    qkv, projection, mlp = 6 * width * width, 2 * width * width, 16 * width * width
    scores = 4 * SEQ * width  # of one position: with every key, and with every value
    layer = SEQ * (qkv + projection + mlp + scores)
    last = SEQ * qkv + scores + projection + mlp
    readout = 4 * width
    clean = prompts * (shape.layers * layer + readout)
    rows = 0
    for first in range(shape.layers):
        later = shape.layers - 1 - first
        own = projection if not later else SEQ * projection
        rows += own + max(0, later - 1) * layer + (last if later else 0) + readout
    return clean + prompts * shape.heads * rows


def reset_peak() -> None:
    """Lets the peak of resident memory start again from what is resident now, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    import resource

    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
