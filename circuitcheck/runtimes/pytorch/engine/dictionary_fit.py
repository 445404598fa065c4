"""How well dictionaries explain what passes a model on a task, and which of their latents it turns on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuitcheck.core.features import DictionaryFacts
from circuitcheck.core.prompts import Prompts
from circuitcheck.runtimes.pytorch.forward import run_model
from circuitcheck.runtimes.pytorch.ports.ports import Port, editing
from circuitcheck.runtimes.pytorch.torch_model import TorchModel

Passed = tuple[Tensor, Tensor]
"""What passes where a dictionary reads, `[batch, seq, d_in]`, and where it writes, `[batch, seq, d_out]`."""


def fit(
    model: TorchModel, ports: Sequence[Port], prompts: Prompts
) -> tuple[tuple[DictionaryFacts, ...], list[NDArray[np.intp]]]:
    """Facts of each dictionary, and the numbers of its active latents.

    Args:
        model: the model, in evaluation mode.
        ports: of the dictionaries.
        prompts: of which clean ones are to be explained, and counterfactuals turn latents on, too.
    """
    device = model.device
    on = [torch.zeros(port.group.total, dtype=torch.bool, device=device) for port in ports]
    clean: list[list[Passed]] = [[] for _ in ports]
    for is_clean, passed in _passes(model, ports, prompts):
        for place, port in enumerate(ports):
            assert port.latents is not None
            source, output = passed[place]
            for part in port.latents.parts(source):
                on[place] |= (port.latents.all(part) != 0).any(0)
            if is_clean:
                clean[place].append((source[:, 1:].flatten(0, 1), output[:, 1:].flatten(0, 1)))
    facts = tuple(_facts(port, clean[place], int(on[place].sum())) for place, port in enumerate(ports))
    return facts, [np.flatnonzero(one.cpu().numpy()) for one in on]


def _facts(port: Port, passed: Sequence[Passed], active: int) -> DictionaryFacts:
    assert port.latents is not None
    source, output = (torch.cat(parts) for parts in zip(*passed, strict=True))
    left, whole = port.latents.explained(source, output)
    dictionary = port.latents.dictionary
    return DictionaryFacts(
        group=port.group.name,
        architecture=dictionary.architecture,
        fingerprint=dictionary.fingerprint,
        latents=dictionary.latents,
        active=active,
        explained=1 - left / whole if whole else 0.0,
    )


def _passes(model: TorchModel, ports: Sequence[Port], prompts: Prompts) -> Iterator[tuple[bool, dict[int, Passed]]]:
    """Whether prompts are clean, and what passes each port with them."""
    with torch.no_grad():
        for batch in prompts.batches(model.at_most(None)):
            for is_clean, ids in ((True, batch.clean), (False, batch.counterfactual)):
                yield is_clean, _passed(model, ports, torch.from_numpy(ids).to(model.device))


def _passed(model: TorchModel, ports: Sequence[Port], ids: Tensor) -> dict[int, Passed]:
    found: dict[tuple[int, bool], Tensor] = {}

    def keeper(key: tuple[int, bool]) -> Callable[[Tensor], None]:
        def keep(tensor: Tensor) -> None:
            found[key] = tensor.detach().reshape(*ids.shape, -1).clone()

        return keep

    with ExitStack() as stack:
        for place, port in enumerate(ports):
            stack.enter_context(editing(model.module, port, keeper((place, False))))
            if port.source is not None:
                stack.enter_context(editing(model.module, Port(port.group, *port.source), keeper((place, True))))
        run_model(model, ids)
    return {place: (found.get((place, True), found[place, False]), found[place, False]) for place in range(len(ports))}
