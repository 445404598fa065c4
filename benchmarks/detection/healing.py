"""Trains a damaged model to speak like the reference again, while the damage stays."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from circuitcheck.core.units import Unit
from circuitcheck.runtimes.pytorch.loading.fingerprint import fingerprint_module
from detection.anatomy import head_channels
from detection.surgery import output_columns, prune_heads
from detection.texts import training_text

LEARNING_RATE, BATCH, WARM_UP = 3e-4, 32, 0.1
"""A larger rate heals no better and moves every weight: an undamaged model then ends as far away as a damaged one."""

Text = Callable[[int], Iterator[Tensor]]
"""Seed to endless token ids `[rows, seq]`."""

STARVED = 0.1
"""What is left of a starved head in the end."""


@dataclass(frozen=True)
class Healing:
    """One training, kept at several steps.

    Attributes:
        name: different for every training; it names the files.
        damage: is done to the copy of the reference before the first step.
        stops: steps at which the model is kept, ascending; each is a severity of its own.
        silenced: heads that write nothing, at any step.
        starved: heads that are allowed to write less and less (see `allowance`), so that others take over.
        seed: of the training text.
    """

    name: str
    damage: Callable[[nn.Module], None]
    stops: tuple[int, ...]
    silenced: tuple[Unit, ...] = ()
    starved: tuple[Unit, ...] = ()
    seed: int = 0

    def key(self, reference: nn.Module) -> str:
        """Name of the kept files, which changes with everything that the training depends on but its code."""
        settings = (LEARNING_RATE, BATCH, WARM_UP, STARVED, self.stops, self.silenced, self.starved, self.seed)
        digest = hashlib.sha256(f"{settings} {fingerprint_module(reference)}".encode()).hexdigest()
        return f"{self.name}-{digest[:12]}"

    def allowance(self, step: int) -> float:
        """The largest norm of a starved head's output columns after a step, relative to the reference's."""
        return max(STARVED, 1 - step / (0.75 * self.stops[-1]))


def healed(
    healing: Healing, reference: nn.Module, stop: int, cache: Path, text: Text = training_text
) -> dict[str, Tensor]:
    """The weights after `stop` steps, trained if they are not in `cache` yet; processes wait for each other.

    Raises:
        ValueError: the training does not stop there.
    """
    if stop not in healing.stops:
        raise ValueError(f"healing {healing.name!r} is kept at steps {healing.stops}, not at {stop}.")
    cache.mkdir(parents=True, exist_ok=True)
    key = healing.key(reference)
    file = cache / f"{key}-{stop}.safetensors"
    with FileLock(cache / f"{key}.lock"):
        if not file.is_file():
            for step, weights in distil(healing, reference, text).items():
                save_whole(weights, cache / f"{key}-{step}.safetensors")
    return load_file(file)


def save_whole(weights: dict[str, Tensor], file: Path) -> None:
    """Writes the file whole or not at all."""
    part = file.with_suffix(".part")
    save_file(weights, part)
    part.replace(file)


def distil(healing: Healing, reference: nn.Module, text: Text = training_text) -> dict[int, dict[str, Tensor]]:
    """Adam on the KL divergence of the reference's next-token distributions, mean over positions, in nats.

    Args:
        healing: the training.
        reference: the teacher; a copy of it is trained.
        text: seed to what they read.

    Returns:
        Step to weights.
    """
    model = deepcopy(reference)
    model.requires_grad_(True)
    healing.damage(model)
    # One learning rate for all stops: each then is a training that was cut off, not one of another schedule.
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99))
    last = healing.stops[-1]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=last + 1, pct_start=WARM_UP)
    stream = text(healing.seed)
    kept: dict[int, dict[str, Tensor]] = {}
    for step in range(1, last + 1):
        ids = next(stream)[:BATCH]
        loss = divergence(reference, model, ids)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        _hold_starved_inputs(healing, model)
        optimizer.step()
        schedule.step()
        prune_heads(model, healing.silenced)
        _starve(healing, reference, model, step)
        if step in healing.stops:
            kept[step] = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return kept


def divergence(reference: nn.Module, model: nn.Module, ids: Tensor) -> Tensor:
    """KL(reference || model) of the next token, mean over positions, in nats; differentiable in `model`."""
    with torch.no_grad():
        teacher = reference(ids).logits.float().log_softmax(-1)
    student = model(ids).logits.float().log_softmax(-1)
    return torch.nn.functional.kl_div(
        student.flatten(0, 1), teacher.flatten(0, 1), reduction="batchmean", log_target=True
    )


@torch.no_grad()
def _starve(healing: Healing, reference: nn.Module, model: nn.Module, step: int) -> None:
    for head in healing.starved:
        columns = output_columns(model, head)
        columns.mul_((healing.allowance(step) * output_columns(reference, head).norm() / columns.norm()).clamp(max=1))


def _hold_starved_inputs(healing: Healing, model: nn.Module) -> None:
    """A starved head could keep its effect by growing its values, so its queries, keys and values do not learn."""
    for layer, head in healing.starved:
        queries, keys, values = head_channels(model, layer)
        group = head // (len(queries) // len(keys))
        for place in (queries[head], keys[group], values[group]):
            weight, bias = place.linear.weight.grad, getattr(place.linear, "bias", None)
            if weight is not None:
                (weight.T if isinstance(place.linear, Conv1D) else weight)[place.rows] = 0
            if bias is not None and bias.grad is not None:
                bias.grad[place.rows] = 0
