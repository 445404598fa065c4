"""Passes without an intervention: the metric, values of units, their means, and gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuitcheck.core.activations import Activations, join
from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.next_token import KEPT, NextToken
from circuitcheck.core.prompts import Batch, Prompts
from circuitcheck.core.routes import Routes
from circuitcheck.runtimes.pytorch.engine.checkpoints import checkpointed
from circuitcheck.runtimes.pytorch.engine.clean_pass import refused_as_model_errors
from circuitcheck.runtimes.pytorch.engine.packing import backward_prompts, is_checkpointed
from circuitcheck.runtimes.pytorch.forward import hidden_and_logits, last_logits, metric_of, metric_of_hidden, run_model
from circuitcheck.runtimes.pytorch.ports.experts import chosen_experts, down_matrices, experts_of
from circuitcheck.runtimes.pytorch.ports.ports import Port, UnitEdit, editing_units, layout_of, reading
from circuitcheck.runtimes.pytorch.torch_model import TorchModel


@dataclass(frozen=True)
class Rows:
    """Clean prompts of one length on the model's device.

    Attributes:
        ids: token ids, `[batch, seq]`.
        answer: token ids, `[batch]`.
        foil: token ids, `[batch]`.
    """

    ids: Tensor
    answer: Tensor
    foil: Tensor

    def __len__(self) -> int:
        """How many prompts there are."""
        return len(self.ids)

    def part(self, prompts: slice) -> Rows:
        """Some of the prompts."""
        return Rows(self.ids[prompts], self.answer[prompts], self.foil[prompts])


def rows_of(model: TorchModel, batch: Batch, *, counterfactual: bool = False) -> Rows:
    """A batch on the model's device; with the counterfactuals in place of the clean prompts where asked for."""
    arrays = (batch.counterfactual if counterfactual else batch.clean, batch.answer, batch.foil)
    return Rows(*(torch.from_numpy(array).to(model.device) for array in arrays))


def clean_metric(model: TorchModel, prompts: Prompts, *, counterfactual: bool = False) -> NDArray[np.float32]:
    """The model's metric m of every prompt, `[prompts]`; counterfactuals with the clean prompt's answer and foil."""
    metric = np.empty(len(prompts), np.float32)
    with torch.no_grad():
        for batch in prompts.batches(model.at_most(None)):
            rows = rows_of(model, batch, counterfactual=counterfactual)
            with refused_as_model_errors(model, rows.ids.shape):
                found = metric_of(model, rows.ids, rows.answer, rows.foil)
            metric[[prompts.columns[place] for place in batch.index]] = found.cpu().numpy()
    return metric


def next_token(model: TorchModel, prompts: Prompts, tokens: NDArray[np.int32] | None = None) -> NextToken | None:
    """What comes next after every clean prompt; of given tokens `[prompts, kept]`, or of those that are likeliest.

    The model's own logits, after all that it does to them; None of a model without an unembedding.
    """
    if model.structure.output_layer is None:
        return None
    batches = prompts.batches(model.at_most(None))
    with torch.no_grad():
        return _next_token(
            ((batch, last_logits(model, rows_of(model, batch).ids)) for batch in batches), prompts, tokens
        )


def metric_and_next_token(
    model: TorchModel, prompts: Prompts, tokens: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NextToken | None]:
    """What `clean_metric` and `next_token` say of clean prompts, to the last bit, from one pass of each."""
    if model.quantity.function is not None or model.structure.output_layer is None:
        return clean_metric(model, prompts), next_token(model, prompts, tokens)
    metric = np.empty(len(prompts), np.float32)

    def logits() -> Iterator[tuple[Batch, Tensor]]:
        for batch in prompts.batches(model.at_most(None)):
            rows = rows_of(model, batch)
            with refused_as_model_errors(model, rows.ids.shape):
                hidden, said = hidden_and_logits(model, rows.ids)
            found = metric_of_hidden(model, hidden, rows.answer, rows.foil)
            metric[[prompts.columns[place] for place in batch.index]] = found.cpu().numpy()
            yield batch, said

    with torch.no_grad():
        return metric, _next_token(logits(), prompts, tokens)


def _next_token(
    batches: Iterable[tuple[Batch, Tensor]], prompts: Prompts, tokens: NDArray[np.int32] | None
) -> NextToken:
    """What logits at the last position, of each batch `[batch, vocabulary]`, say."""
    found: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    for batch, given in batches:
        logits = given.float().log_softmax(-1).cpu()
        columns = [prompts.columns[place] for place in batch.index]
        chosen = (
            logits.topk(min(KEPT, logits.shape[-1])).indices
            if tokens is None
            else torch.from_numpy(tokens[columns].astype(np.int64))
        )
        found |= dict(zip(columns, zip(chosen, logits.gather(-1, chosen), logits.argmax(-1), strict=True), strict=True))
    chosen, values, likeliest = (torch.stack(part) for part in zip(*(found[key] for key in sorted(found)), strict=True))
    return NextToken(
        chosen.numpy().astype(np.int32), values.numpy().astype(np.float32), likeliest.numpy().astype(np.int32)
    )


def clean_activations(model: TorchModel, prompts: Prompts, ports: Sequence[Port]) -> Activations:
    """Values of all units on the clean prompts, all positions."""
    batches = prompts.batches(model.at_most(None))
    return collect(((batch, read_units(model, ports, rows_of(model, batch).ids)) for batch in batches), ports)


def clean_routes(model: TorchModel, prompts: Prompts) -> tuple[Routes, ...]:
    """Which experts every router chooses, at all positions of the clean prompts behind one another."""
    found = [(site.layer, experts_of(model.module, site.mlp)) for site in model.structure.layers]
    layers = [(layer, experts) for layer, experts in found if experts is not None]
    rows: dict[int, list[NDArray[np.int32]]] = {}
    with torch.no_grad():
        for batch in prompts.batches(model.at_most(None)) if layers else ():
            ids = rows_of(model, batch).ids
            with ExitStack() as stack:
                choices = [stack.enter_context(chosen_experts(experts)) for _, experts in layers]
                run_model(model, ids)
            for number, place in enumerate(batch.index):
                rows[place] = [one[0].view(*ids.shape, -1)[number].sort(-1).values.cpu().numpy() for one in choices]
    return tuple(
        Routes(
            layer,
            len(down_matrices(experts)),
            np.concatenate([rows[place][at] for place in prompts.index]).astype(np.int32),
        )
        for at, (layer, experts) in enumerate(layers)
    )


def read_units(model: TorchModel, ports: Sequence[Port], ids: Tensor) -> list[Tensor]:
    """For each group `[batch, seq, count, width]`, in the model's own dtype, from one pass."""
    with torch.no_grad(), reading(model.module, ports) as values:
        run_model(model, ids)
    return [values[place].reshape(*ids.shape, *values[place].shape[-2:]) for place in range(len(ports))]


def collect(parts: Iterable[tuple[Batch, Sequence[Tensor]]], ports: Sequence[Port]) -> Activations:
    """Activations from batches, each with, for each group, `[batch, seq, count, width]`."""
    rows = {}
    for batch, groups in parts:
        arrays = [group.detach().float().cpu().numpy() for group in groups]
        for number, place in enumerate(batch.index):
            rows[place] = [array[number] for array in arrays]
    return join(rows, layout_of(ports, ""))


def read_group_means(model: TorchModel, prompts: Prompts, ports: Sequence[Port]) -> list[Tensor]:
    """Mean values of a whole task, for each group `[longest seq, count, width]`, aligned at the answer position.

    Args:
        model: the model.
        prompts: of the task, of which every clean and counterfactual prompt counts.
        ports: of the units.

    Returns:
        float32.
    """
    batches = prompts.task.prompts(most=prompts.most).batches(model.at_most(None))
    longest = max(batch.clean.shape[1] for batch in batches)
    totals = [torch.zeros(longest, port.group.count, port.group.width, device=model.device) for port in ports]
    counts = torch.zeros(longest, 1, 1, device=model.device)
    for batch in batches:
        both = torch.from_numpy(np.concatenate([batch.clean, batch.counterfactual])).to(model.device)
        counts[-both.shape[1] :] += len(both)
        for ids in torch.split(both, model.at_most(len(both)) or len(both)):
            for total, values in zip(totals, read_units(model, ports, ids), strict=True):
                total[-ids.shape[1] :] += values.float().sum(0)
    return [total / counts for total in totals]


def unit_gradient(
    model: TorchModel,
    prompts: Prompts,
    ports: Sequence[Port],
    at: Activations | None = None,
    *,
    held: bool = False,
    memory: int | None = None,
) -> tuple[NDArray[np.float32], Activations]:
    """M of every prompt, `[prompts]`, and its gradient by every unit, in units of the metric per unit of the value.

    Only ever of the reference: many quantized kernels return no gradient, or a wrong one.

    Args:
        model: the model, in evaluation mode.
        prompts: the prompts.
        ports: of the units.
        at: values that the units have, at as many last positions as they are of; their own by default.
        held: whether all other units keep their values while one is moved. By default the gradient is total.
        memory: budget in bytes for what a backward pass keeps; by default a share of what is free.

    Raises:
        ConfigurationError: the metric carries no gradient.
    """
    metric = np.empty(len(prompts), np.float32)
    longest = max((len(prompts.task.pairs[place].clean) for place in prompts.index), default=1)
    parts = []
    for batch in prompts.batches(model.at_most(backward_prompts(model, longest, memory))):
        rows = rows_of(model, batch)
        values = None if at is None else [torch.from_numpy(part).to(model.device) for part in at.rows(batch.index)]
        probes: dict[int, Tensor] = {}
        with torch.enable_grad(), ExitStack() as stack:
            if is_checkpointed(model, longest, memory):
                stack.enter_context(checkpointed(model))
            for place, port in enumerate(ports):
                value = None if values is None else values[place]
                probe = _probe(port, probes, place, rows.ids.shape, value, held=held)
                stack.enter_context(editing_units(model.module, port, probe))
            found = metric_of(model, rows.ids, rows.answer, rows.foil)
            if not found.requires_grad:
                raise ConfigurationError(
                    f"metric {model.quantity.name} gives values without a gradient; compute them with differentiable "
                    "operations, without detach, item or argmax."
                )
            metric[[prompts.columns[place] for place in batch.index]] = found.detach().cpu().numpy()
            leaves = [probes[place] for place in range(len(ports))]
            gradients = torch.autograd.grad(found, leaves, torch.ones_like(found))
        parts.append((batch, gradients))
    return metric, collect(parts, ports)


def _probe(
    port: Port, probes: dict[int, Tensor], place: int, shape: torch.Size, value: Tensor | None, *, held: bool
) -> UnitEdit:
    """Adds a zero, by which the metric can be differentiated whether or not weights are frozen."""

    def probe(given: Tensor) -> Tensor:
        units = given.reshape(*shape, port.group.count, port.group.width)
        if place not in probes:  # a layer that is run once more for its gradient meets the same one
            probes[place] = torch.zeros_like(units, requires_grad=True)
        if value is not None:
            first = units.shape[1] - value.shape[1]
            kept, own, put = units[:, :first], units[:, first:], value.to(units.dtype)
            units = torch.cat([kept, put if held else own + (put - own).detach()], 1)
        elif held:
            units = units.detach()
        return (units + probes[place]).view(given.shape)

    return probe
