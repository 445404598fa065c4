"""How many rows, each one prompt under one set of units, run together: as many as a byte budget holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from circuitcheck.core.errors import MemoryBudgetError
from circuitcheck.core.metric import LOG_PROBABILITY
from circuitcheck.runtimes.pytorch.forward import chunk_size, float_rows
from circuitcheck.runtimes.pytorch.offload import fetched_bytes, is_offloaded, resident_bytes
from circuitcheck.runtimes.pytorch.ports.structure import output_width
from circuitcheck.runtimes.pytorch.torch_model import TorchModel

FREE_SHARE = 0.5
"""Default budget as a share of what is free: the rest of the process, and other processes, grow too."""

RECORD_SHARE = 0.25
"""Share of the budget that the record of a clean pass may take; rows take the rest."""

MOST_TOKENS = {"cpu": 1024, "cuda": 65536}
"""Tokens of one batch beyond which nothing gets faster: on a CPU the activations leave the cache, on a GPU the matrix
units are full."""

MOST_ANSWERS = {"cpu": 256, "cuda": 8192}
"""The same where a row is one token, which brings the keys and values of its prompt along."""

LEARNED = 2**25 - 2**16
"""Just under the largest allocation from whose release the GNU allocator learns."""

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
UNKNOWN_FREE = 2**31
"""What is taken to be free, in bytes, where the system does not tell."""


def keep_freed_pages(device: torch.device) -> None:
    """Lets the C library reuse what one operation frees for the next, where it would return it to the system.

    The GNU allocator maps large blocks afresh, and gives them back, until it has seen one of their size released;
    every page of every activation is then cleared by the kernel first, which takes a tenth of a sweep's time. The
    block is never written to, so it takes no memory. Other allocators do not mind.
    """
    if device.type == "cpu":
        torch.empty(LEARNED, dtype=torch.uint8)


def default_budget(device: torch.device) -> int:
    """The budget in bytes where none is set: a share of what is free now."""
    return int(FREE_SHARE * free_memory(device))


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on `device`."""
    if device.type == "cuda":
        # What PyTorch holds in reserve without using it is free as well.
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + reserve
    known = [value for value in (_system_free(), _cgroup_free()) if value is not None]
    return min(known, default=UNKNOWN_FREE)


def _system_free() -> int | None:
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kibibytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if kibibytes is None else int(kibibytes) * 1024


def _cgroup_free() -> int | None:
    """What a container's own limit leaves, which the system's figure does not know of."""
    try:
        limit = (CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used)


@dataclass(frozen=True)
class Plan:
    """What fits the budget.

    Attributes:
        prompts: the most prompts whose clean pass is recorded at once.
        rows: the most rows that run together.
        wanted: how many rows would run together if memory were no matter.
        wave: the most rows that go through the layers together, block by block; 0 for one block.
    """

    prompts: int
    rows: int
    wanted: int
    wave: int = 0


def plan(model: TorchModel, seq: int, batch: int, memory: int | None) -> Plan:
    """Divides a budget between the record of the clean pass and the rows that run from it.

    Where the budget suffices, the plan is the same whatever the budget: roundings depend on the shapes of batches.

    Args:
        model: the model.
        seq: tokens of a prompt.
        batch: number of prompts.
        memory: the budget in bytes; by default a share of what is free.

    Raises:
        MemoryBudgetError: the budget is set, and one prompt under one set of units does not fit it.
    """
    record, row, once = record_bytes(model, seq), row_bytes(model, seq), readout_bytes(model)
    held = 0 if memory is None else weights_bytes(model)
    if memory is not None and memory < record + row + once + held:
        beside = f", {held:,} of them for weights" if held else " beside the model"
        raise MemoryBudgetError(
            f"{model.name}: one prompt of {seq} tokens needs about {record + row + once + held:,} bytes{beside}, and "
            f"the memory budget is {memory:,} bytes. Raise the budget, or use shorter prompts."
        )
    return _plan(model, batch, budget_of(model, memory) - once, record, row, rows_by_speed(model, seq), seq)


def _plan(model: TorchModel, batch: int, budget: int, record: int, row: int, wanted: int, seq: int) -> Plan:
    """The plan for a budget, and for what one prompt's record, and one row of `seq` tokens, take of it."""
    prompts = max(1, min(model.at_most(batch) or batch, int(RECORD_SHARE * budget) // record))
    left = budget - prompts * record
    rows = max(1, min(wanted, left // row))
    if not is_offloaded(model.module):
        return Plan(prompts, rows, wanted)
    # Half of what is left runs, and the other half waits between two layers.
    rows = max(1, min(wanted, left // 2 // row))
    waiting = seq * _stream_width(model, model.structure.layers[0].projection) * _element_size(model.module)
    return Plan(prompts, rows, wanted, max(0, left - rows * row) // waiting)


def budget_of(model: TorchModel, memory: int | None) -> int:
    """What sweeps may take: the budget, of which weights that are fetched when they are needed take their part."""
    if memory is not None:
        return memory - weights_bytes(model)
    return default_budget(model.device) - fetched_bytes(_fetched_parts(model))


def weights_bytes(model: TorchModel) -> int:
    """Memory that weights take at once, of a model some of which lie elsewhere; 0 where the budget is beside it."""
    if not is_offloaded(model.module):
        return 0
    return resident_bytes(model.module) + fetched_bytes(_fetched_parts(model))


def _fetched_parts(model: TorchModel) -> list[nn.Module]:
    """What is fetched at once: a layer, the token embedding, or the unembedding."""
    structure = model.structure
    paths = [*(site.path for site in structure.layers), structure.embedding, structure.output_layer]
    return [model.module.get_submodule(path) for path in paths if path is not None]


def plan_last(model: TorchModel, seq: int, count: int, batch: int, memory: int | None) -> Plan | None:
    """The same where only the last positions run, beside the keys and values of the others.

    Args:
        model: the model.
        seq: tokens of a prompt.
        count: of which so many run.
        batch: number of prompts.
        memory: the budget in bytes; by default a share of what is free.

    Returns:
        None where the keys and values of one prompt do not fit the budget as well.
    """
    record, row = record_bytes(model, seq) + kept_bytes(model, seq), last_row_bytes(model, seq, count)
    budget = budget_of(model, memory) - readout_bytes(model)
    if budget < record + row:
        return None
    most = MOST_ANSWERS.get(model.device.type, MOST_ANSWERS["cuda"])
    wanted = model.at_most(min(most, rows_by_speed(model, count))) or 1
    return _plan(model, batch, budget, record, row, wanted, count)


def rows_by_speed(model: TorchModel, seq: int) -> int:
    """How many rows of `seq` tokens run together if memory is no matter."""
    rows = max(1, full_batch(model.device) // seq)
    return model.at_most(rows) or rows


def full_batch(device: torch.device) -> int:
    """How many tokens run together if memory is no matter."""
    return MOST_TOKENS.get(device.type, MOST_TOKENS["cuda"])


def few_rows(model: TorchModel, seq: int) -> int:
    """How many rows of `seq` tokens, or of the last of them, run together whatever layer they start in.

    It is known before anything is run, so that parts of a sweep that run elsewhere run in the same batches.
    """
    return min(MOST_ANSWERS.get(model.device.type, MOST_ANSWERS["cuda"]), rows_by_speed(model, seq))


def backward_prompts(model: TorchModel, seq: int, memory: int | None) -> int:
    """How many prompts of `seq` tokens a backward pass takes, which keeps what every layer did.

    Args:
        model: the model.
        seq: tokens of a prompt.
        memory: budget in bytes; by default a share of what is free.
    """
    layers = len(model.structure.layers)
    kept = row_bytes(model, seq) * layers
    if is_checkpointed(model, seq, memory):
        kept = row_bytes(model, seq) + layers * seq * _stream_width(model, model.structure.layers[0].projection) * 4
    return max(1, min(rows_by_speed(model, seq), budget_of(model, memory) // kept))


def is_checkpointed(model: TorchModel, seq: int, memory: int | None) -> bool:
    """Whether a backward pass keeps what each layer was given alone, and runs the layer once more for the rest.

    Where weights are fetched when they are needed, because it would keep those of all layers; and where what all layers
    did with one prompt does not fit the budget.
    """
    layers = len(model.structure.layers)
    return is_offloaded(model.module) or row_bytes(model, seq) * layers > budget_of(model, memory)


def record_bytes(model: TorchModel, seq: int) -> int:
    """Memory that one prompt's clean pass takes: `z`, the hidden state and the MLP's output of every layer."""
    sites = model.structure.layers
    widths = sum(site.n_heads * site.d_head + 2 * _stream_width(model, site.projection) for site in sites)
    return max(1, seq * widths * _element_size(model.module))


def row_bytes(model: TorchModel, seq: int) -> int:
    """Memory that one row of `seq` tokens is estimated to need while it runs.

    What the linear maps of the widest layer put out, twice, since most of it is normalised or activated once more; the
    scores, weights and mask of its attention; and the residual stream in and out of it. Not all of that is alive at
    once, so this is rather too much than too little.
    """
    widest = scores = stream = 0
    for site in model.structure.layers:
        parts = model.module.get_submodule(site.path).modules()
        widest = max(widest, sum(output_width(part) or 0 for part in parts))
        scores = max(scores, 3 * site.n_heads * seq)
        stream = max(stream, 4 * _stream_width(model, site.projection))
    size = 4 if model.wide else _element_size(model.module)
    return seq * (2 * widest + scores + stream) * size + _logit_bytes(model, seq)


def kept_bytes(model: TorchModel, seq: int) -> int:
    """Memory that the keys and values of one prompt take, of every layer: at the most those of each query head."""
    sites = model.structure.layers
    return 2 * seq * sum(site.n_heads * site.d_head for site in sites) * _element_size(model.module)


def last_row_bytes(model: TorchModel, seq: int, count: int) -> int:
    """Memory that a row of the last positions alone needs while it runs.

    That of their tokens, their scores and, twice, the keys and values of all others in one layer: they are copied
    behind one another, and shared ones once more for each query head.
    """
    widest = max((site.n_heads * site.d_head, site.n_heads) for site in model.structure.layers)
    size = 4 if model.wide else _element_size(model.module)
    return row_bytes(model, count) + seq * (4 * widest[0] + 3 * count * widest[1]) * size


def readout_bytes(model: TorchModel) -> int:
    """Memory that reading the metric takes whatever the number of rows: a float32 copy of a part of the unembedding."""
    rows = _unembedding_rows(model)
    if model.quantity != LOG_PROBABILITY or rows is None or rows.dtype == torch.float32:
        return 0
    return 4 * min(len(rows), chunk_size(rows)) * rows.shape[1]


def _logit_bytes(model: TorchModel, seq: int) -> int:
    """Memory that the logits of one row take: in the model's own type, in float32, and once more where changed."""
    path, rows = model.structure.output_layer, _unembedding_rows(model)
    vocabulary = 0 if path is None else output_width(model.module.get_submodule(path)) or 0
    if model.quantity.function is not None:
        return 12 * vocabulary * seq
    if rows is None:
        return 12 * vocabulary
    return 12 * min(vocabulary, chunk_size(rows)) if model.quantity == LOG_PROBABILITY else 0


def _unembedding_rows(model: TorchModel) -> Tensor | None:
    path = model.structure.output_layer
    found = None if path is None else float_rows(model.module.get_submodule(path))
    return None if found is None else found[0]


def _stream_width(model: TorchModel, projection: str) -> int:
    return output_width(model.module.get_submodule(projection)) or 0


def _element_size(module: nn.Module) -> int:
    """Bytes of an activation; those of quantized weights tell nothing, so float parameters only."""
    sizes = [part.element_size() for part in module.parameters() if part.is_floating_point()]
    return max(sizes, default=4)
