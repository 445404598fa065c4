"""Ports: where the units of one group pass through a model, and how a tensor there is split into them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from circuitcheck.core.errors import SiteError
from circuitcheck.core.phrases import listed
from circuitcheck.core.units import Group, Layout
from circuitcheck.runtimes.pytorch import UNIT_KINDS
from circuitcheck.runtimes.pytorch.hooks import post_hook, pre_hook
from circuitcheck.runtimes.pytorch.ports.down_projections import Neurons, down_projections
from circuitcheck.runtimes.pytorch.ports.experts import Expert, editing_expert
from circuitcheck.runtimes.pytorch.ports.latents import Latents
from circuitcheck.runtimes.pytorch.ports.structure import LayerSite, Structure, output_width

Edit = Callable[[Tensor], Tensor | None]
"""Takes what passes a port, and returns what stands in its place; None leaves it."""

UnitEdit = Callable[[Tensor], Tensor | None]
"""Takes the units of a port, `[first, ..., count, width]`, and returns what stands in their place, of which there may
be several copies behind one another in the first dimension; None leaves them."""

Side = Literal["input", "output"]


class CannotEditError(Exception):
    """A tensor at a port is not made of the rows that run, so nothing can be put into it."""


@dataclass(frozen=True)
class Port:
    """Where one group of units is read and written.

    Attributes:
        group: the units.
        module: path of the module.
        side: whether they are its input or its output.
        latents: how they are read and written there; None where they are slices of what passes.
        source: module and side where latents are read, if not where they are written.
        runs_in: the layer in whose call the module runs, where that is not the units' own; -1 before the first.
        expert: of a stack of experts, which the module holds, the one whose neurons they are; else None.
        routed: whether the module is given tokens by a router beside it, so that both must have the same rows.
    """

    group: Group
    module: str
    side: Side
    latents: Latents | None = None
    source: tuple[str, Side] | None = None
    runs_in: int | None = None
    expert: Expert | None = None
    routed: bool = False

    @property
    def layer(self) -> int:
        """The layer in whose call units are written."""
        return self.group.layer if self.runs_in is None else self.runs_in

    @property
    def width(self) -> int:
        """Numbers of one position that pass the module."""
        if self.expert is not None:
            return self.expert.width
        return self.group.total * self.group.width if self.latents is None else self.latents.decoder.shape[1]

    def split(self, tensor: Tensor) -> Tensor:
        """Units `[..., count, width]` of what passes where they are read; a view where they are all of it."""
        if self.latents is not None:
            return self.latents.read(tensor, self.numbers)
        units = tensor.reshape(*tensor.shape[:-1], self.group.total, self.group.width)
        return units[..., self.numbers, :] if self.group.of else units

    def joined(self, tensor: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """What passes, with other units in it; what they do not stand for stays.

        Args:
            tensor: what passes, `[first, ..., numbers]`.
            before: its units, `[first, ..., count, width]`.
            after: other ones, `[copies * first, ..., count, width]`.
        """
        if self.latents is not None:
            change = after.view(-1, *before.shape) - before
            return (tensor + self.latents.written(change, self.numbers).to(tensor.dtype)).flatten(0, 1)
        if isinstance(self.numbers, slice):
            return after.flatten(-2)
        passing = tensor.reshape(*tensor.shape[:-1], self.group.total, self.group.width)
        copies = passing.repeat(len(after) // len(before), *(1,) * (passing.dim() - 1))
        return copies.index_copy(-2, self.numbers.to(copies.device), after).flatten(-2)

    @property
    def is_written_whole(self) -> bool:
        """Whether the units are what is added to the residual stream, so that no map says what they write."""
        return self.side == "output" and self.latents is None and self.expert is None

    @cached_property
    def numbers(self) -> Tensor | slice:
        """Which the units are of all that pass."""
        return torch.tensor(self.group.numbers) if self.group.of else slice(None)


def ports_of(module: nn.Module, structure: Structure, kind: str) -> tuple[Port, ...]:
    """The ports of all units of a kind, in order of execution.

    Raises:
        SiteError: there is no such kind, or a layer has no such units.
    """
    if kind not in PORTS:
        raise SiteError(f"{type(module).__name__}: units are {', '.join(PORTS)}, not {kind!r}.")
    return tuple(port for site in structure.layers for port in PORTS[kind](module, site))


def narrowed(ports: Sequence[Port], layout: Layout) -> tuple[Port, ...]:
    """The ports of some units.

    Raises:
        SiteError: there are no such units.
    """
    found = {port.group: port for port in ports}
    missing = [group.name for group in layout.groups if group.whole not in found]
    if missing:
        raise SiteError(f"this model has no {layout.kind}s like those of {listed(missing, 4)}: it has another shape.")
    return tuple(replace(found[group.whole], group=group) for group in layout.groups)


def layout_of(ports: Sequence[Port], kind: str) -> Layout:
    """The units behind some ports."""
    return Layout(kind, tuple(port.group for port in ports))


def _heads(_: nn.Module, site: LayerSite) -> list[Port]:
    """A head is a slice of the INPUT of its layer's output projection; behind it the heads are mixed."""
    return [Port(Group(str(site.layer), site.layer, site.n_heads, site.d_head), site.projection, "input")]


def _blocks(module: nn.Module, site: LayerSite) -> list[Port]:
    """What a layer's attention and its MLP each add to the residual stream."""
    width = output_width(module.get_submodule(site.projection))
    mlp = site.mlp_output or site.mlp
    if width is None or mlp is None:
        raise SiteError(f"{site.path}: the width of the residual stream, or the MLP, was not found.")
    return [
        Port(Group(f"{name} {site.layer}", site.layer, 1, width, numbered=False), path, "output")
        for name, path in (("attention", site.attention_output or site.projection), ("mlp", mlp))
    ]


def _neurons(module: nn.Module, site: LayerSite) -> list[Port]:
    """A neuron is one number of the INPUT of its MLP's down projection, behind the activation and the gate."""
    return [_of_neurons(site.layer, neurons) for neurons in down_projections(module, site)]


def _of_neurons(layer: int, neurons: Neurons) -> Port:
    group = Group(f"neuron {layer}{neurons.name}", layer, neurons.count, 1)
    side: Side = "input" if neurons.expert is None else "output"
    return Port(group, neurons.module, side, expert=neurons.expert, routed=neurons.routed)


PORTS: dict[str, Callable[[nn.Module, LayerSite], list[Port]]] = dict(
    zip(UNIT_KINDS, (_heads, _blocks, _neurons), strict=True)
)
"""Kind of unit to the ports of one layer."""


def editing(module: nn.Module, port: Port, edit: Edit) -> AbstractContextManager[None]:
    """`edit` sees what passes the port in every forward pass inside the block, and may replace it."""
    part = module.get_submodule(port.module)
    if port.side == "output":
        return post_hook(part, _on_output(edit))
    # In front of whatever a release has put there: a transform of its own is part of the output map.
    return pre_hook(part, _on_input(edit), prepend=True)


@contextmanager
def editing_units(module: nn.Module, port: Port, edit: UnitEdit) -> Iterator[None]:
    """`edit` sees the units of a port in every forward pass inside the block, and may replace them.

    Raises:
        CannotEditError: in the pass, where what passes is not made of such units.
    """
    if port.expert is not None:
        with editing_expert(module.get_submodule(port.module), port.expert.number, edit, port.numbers):
            yield
        return
    given: list[Tensor] = []

    def keep(tensor: Tensor) -> None:
        given[:] = [tensor]

    def change(tensor: Tensor) -> Tensor | None:
        source = given[0] if given else tensor
        try:
            units = port.split(source)
        except RuntimeError as error:
            raise CannotEditError(
                f"{port.module} is called with {list(source.shape)}, which is not {port.width} numbers for each of its "
                "positions"
            ) from error
        new = edit(units)
        return None if new is None else port.joined(tensor, units, new)

    with ExitStack() as stack:
        if port.source is not None:
            path, side = port.source
            stack.enter_context(editing(module, Port(port.group, path, side), keep))
        stack.enter_context(editing(module, port, change))
        yield


@contextmanager
def reading(module: nn.Module, ports: Sequence[Port]) -> Iterator[dict[int, Tensor]]:
    """Collects a copy of the units of each port inside the block.

    Yields:
        A dict, filled by the forward pass: place of the group to `[..., count, width]`, in the model's own dtype; of
        latents in float32.
    """
    recorded: dict[int, Tensor] = {}

    def reader(place: int) -> UnitEdit:
        def read(units: Tensor) -> None:
            # A clone: it is live storage that the layer may write to again.
            recorded[place] = units.detach().clone()

        return read

    with ExitStack() as stack:
        for place, port in enumerate(ports):
            stack.enter_context(editing_units(module, port, reader(place)))
        yield recorded


def _on_input(edit: Edit) -> Callable[..., Any]:
    def hook(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        # A module that is called by keywords has no input here; nothing fits less than no numbers.
        new = edit(arguments[0] if arguments else torch.empty(0))
        return None if new is None else (new, *arguments[1:])

    return hook


def _on_output(edit: Edit) -> Callable[..., Any]:
    def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if not isinstance(output, tuple):
            return edit(output)
        new = edit(output[0])
        return None if new is None else (new, *output[1:])

    return hook
