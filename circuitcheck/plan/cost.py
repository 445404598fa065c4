"""The cost model: what each part of a recording computes, reads and keeps, told from shapes alone.

It counts what the engine does. Ablating a head of layer l runs l's output projection (and its MLP, where that reads
what attention wrote), every later layer, and of the last one only what the last position needs. A pass of few tokens is
as slow as its weights can be read, one of many as its products can be made; so the slower of both is taken, layer by
layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from circuitcheck.core.model_shape import LayerShape, ModelShape
from circuitcheck.core.specification import Positions
from circuitcheck.plan.hardware import Hardware

BYTES = 4
"""Of a number: references are float32."""

PROOF_PROMPTS = 2
BACKWARD = 3
"""Forward and backward pass, in forward passes: the input's gradient costs as much as the output, and a layer that is
checkpointed runs twice."""

PROOFS_ONCE, PROOF_GROUPS = 12, 7
"""Full passes of the proofs of heads and of whole modules on a few prompts; and how many layers' heads, or how many
modules, are ablated in one more pass, each on a copy of the prompts, beside a copy that is left alone; one pass more is
untouched."""

ELEMENTS = 2.5
"""Operations on each number of the stream, of what a layer's maps put out, and of its scores, in activations."""

SCREEN_PASSES = 4
"""Backward passes of a screening."""


@dataclass(frozen=True)
class Job:
    """What is to be recorded.

    Attributes:
        prompts: of the task, all taken to be solved.
        tokens: of a prompt.
        ablate_at: positions that are replaced.
        kinds: kinds of ablation that are swept.
        part: prompts that values, gradients and noise are taken of.
        noise: variations that the noise floor tries.
        roundings: plain roundings that are swept.
        swept: share of the heads that is ablated; below 1 for a screened sweep.
    """

    prompts: int = 128
    tokens: int = 16
    ablate_at: Positions = "all"
    kinds: int = 3
    part: int = 32
    noise: int = 3
    roundings: int = 40
    swept: float = 1.0


@dataclass(frozen=True)
class Cost:
    """What one part costs.

    Attributes:
        name: what it is.
        passes: passes through all layers, those that start later counted by what they run.
        flops: floating-point operations of matrix products.
        read: bytes of weights that are read.
        seconds: on the hardware that was given.
    """

    name: str
    passes: float
    flops: float
    read: float
    seconds: float


def costs(shape: ModelShape, job: Job, hardware: Hardware) -> list[Cost]:
    """The parts of recording one baseline of heads."""
    part = min(job.part, job.prompts)
    layers = len(shape.layers)
    ablating = sum(math.ceil(groups / PROOF_GROUPS) + 1 for groups in (layers, 2 * layers))
    proven = _passes("proofs", shape, hardware, PROOFS_ONCE, PROOF_PROMPTS, job.tokens)
    ablated = _passes("proofs", shape, hardware, ablating, PROOF_PROMPTS * (min(PROOF_GROUPS, layers) + 1), job.tokens)
    screening = BACKWARD * SCREEN_PASSES if job.swept < 1 else 0
    found = [
        total((proven, ablated), "proofs"),
        # m of clean and counterfactual prompts, what comes next, and what stands in for each kind of ablation.
        _passes("clean passes", shape, hardware, 3 + job.kinds, job.prompts, job.tokens),
        sweep("sweeps", shape, job, hardware, job.prompts, job.kinds),
        _passes("gradients", shape, hardware, BACKWARD, part, job.tokens),
    ]
    if screening:
        found.append(_passes("screening", shape, hardware, screening, job.prompts, job.tokens))
    if job.noise:
        found.append(sweep("noise floor", shape, job, hardware, part, job.noise))
    if job.roundings and not is_offloaded(shape, hardware):  # a rounded copy would have to fit memory
        found.append(sweep("roundings", shape, job, hardware, job.prompts, job.roundings))
    return found


def sweep(name: str, shape: ModelShape, job: Job, hardware: Hardware, prompts: int, times: int = 1) -> Cost:
    """Ablating each head on each prompt, so many times over, with the clean pass that it starts from."""
    width = 1 if job.ablate_at == "answer" else job.tokens
    # The clean pass, and its proof, which enters and runs every layer on few rows, and runs what is behind the last.
    clean = _passes(name, shape, hardware, 1, prompts, job.tokens)
    waves = _waves(shape, hardware, prompts * job.swept, width)
    proof = _passes(name, shape, hardware, 3, 2 * PROOF_PROMPTS, width)
    flops = read = seconds = 0.0
    copied = 0
    if job.ablate_at == "answer":
        # That no position sees a later one is shown first, in two passes, and a third one is of the answer position
        # alone. Rows bring keys and values along.
        seconds, copied = _passes(name, shape, hardware, 3, PROOF_PROMPTS, job.tokens).seconds, 4 * job.tokens
    together = hardware.answers if width == 1 else max(1, hardware.tokens // width)
    last = len(shape.layers) - 1
    for first, entry in enumerate(shape.layers):
        rows = max(1, round(entry.heads * prompts * job.swept))
        blocks = math.ceil(rows / together)
        steps = [_entry(entry, width, shape.is_parallel, is_last=first == last)]
        for number, layer in enumerate(shape.layers[first + 1 :], first + 1):
            steps.append(_layer(layer, width, job.tokens, is_last=number == last))
        for a_row, weights in steps:
            attended = entry.heads * job.tokens + copied * entry.d_attention / ELEMENTS
            numbers = width * ELEMENTS * (shape.d_model + weights / shape.d_model + attended)
            flops += rows * a_row
            touched = min(weights * rows * width / blocks, max(weights, entry.stored)) * BYTES
            read += blocks * touched
            seconds += blocks * hardware.seconds(a_row * rows / blocks, touched, numbers * rows / blocks)
    whole = _layer_flops(shape, job.tokens)
    return Cost(
        name,
        times * (clean.passes + flops / whole),
        times * (clean.flops + flops),
        times * (clean.read + read),
        times * (clean.seconds + proof.seconds + seconds + waves * shape.stored * BYTES / hardware.disk),
    )


def memory(shape: ModelShape, job: Job, *, on_disk: bool = False) -> dict[str, float]:
    """Bytes that stay, by what they are: of weights, of one prompt's record, and of one row while it runs."""
    layers = [layer.stored for layer in shape.layers]
    table = shape.vocabulary * shape.d_model
    weights = max(*layers, table) if on_disk else shape.stored
    record = job.tokens * sum(layer.d_attention + 2 * shape.d_model for layer in shape.layers)
    widest = max(layer.used / shape.d_model for layer in shape.layers)
    heads = max(layer.heads for layer in shape.layers)
    row = job.tokens * (2 * widest + 3 * heads * job.tokens + 4 * shape.d_model)
    return {"weights": weights * BYTES, "record of a prompt": record * BYTES, "row": row * BYTES}


def _passes(name: str, shape: ModelShape, hardware: Hardware, times: float, prompts: int, tokens: int) -> Cost:
    """Full passes, in batches as large as they are any use."""
    batches = math.ceil(prompts * tokens / hardware.tokens)
    flops = read = seconds = 0.0
    for layer in shape.layers:
        numbers = tokens * ELEMENTS * (shape.d_model + layer.used / shape.d_model + layer.heads * tokens)
        share = prompts / batches
        flops += prompts * flops_of(layer, tokens)
        # Of many tokens, some choose each expert.
        touched = min(layer.used * share * tokens, layer.stored) * BYTES
        read += batches * touched
        seconds += batches * hardware.seconds(flops_of(layer, tokens) * share, touched, numbers * share)
    table = shape.vocabulary * shape.d_model
    flops += 2 * prompts * table
    read += batches * table * BYTES
    seconds += batches * hardware.seconds(2 * prompts * table / batches, table * BYTES, 0)
    if is_offloaded(shape, hardware):
        seconds += batches * shape.stored * BYTES / hardware.disk
    return Cost(name, times * prompts, times * flops, times * read, times * seconds)


def is_offloaded(shape: ModelShape, hardware: Hardware) -> bool:
    """Whether weights stay on disk, because they need more memory than there is."""
    return hardware.memory is not None and shape.stored * BYTES > hardware.memory


def _waves(shape: ModelShape, hardware: Hardware, prompts: float, width: int) -> int:
    """How often all weights are read from disk: once for as many rows as half of the memory holds."""
    if hardware.memory is None or not is_offloaded(shape, hardware):
        return 0
    return math.ceil(shape.heads * prompts * width * shape.d_model * BYTES / (hardware.memory / 2))


def flops_of(layer: LayerShape, tokens: int) -> float:
    """Operations of one layer on one prompt: its maps, and every position's scores with every other."""
    return tokens * (2 * layer.used + 4 * tokens * layer.d_attention)


def _layer_flops(shape: ModelShape, tokens: int) -> float:
    return sum(flops_of(layer, tokens) for layer in shape.layers)


def _entry(layer: LayerShape, width: int, is_parallel: bool, *, is_last: bool) -> tuple[float, float]:
    """Operations of a row in the layer that it starts in, and weights that they read."""
    weights = layer.attention_out + (0 if is_parallel else layer.mlp)
    return 2.0 * weights * (1 if is_last else width), weights


def _layer(layer: LayerShape, width: int, tokens: int, *, is_last: bool) -> tuple[float, float]:
    """The same of a later layer; of the last one only queries, keys and values of every position are needed."""
    scores = 4 * tokens * layer.d_attention
    if is_last:
        return width * (2.0 * layer.attention_in + scores) + 2.0 * (layer.attention_out + layer.mlp), layer.used
    return width * (2.0 * layer.used + scores), layer.used


def total(parts: Iterable[Cost], name: str = "all") -> Cost:
    """Several parts together."""
    known = list(parts)
    sums = (sum(getattr(cost, what) for cost in known) for what in ("passes", "flops", "read", "seconds"))
    return Cost(name, *sums)
