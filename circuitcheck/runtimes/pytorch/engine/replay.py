"""Replaying what follows an intervention, from the record of a clean pass.

Replacing `z` in layer l changes nothing before layer l, and in layer l nothing but what its attention's output
projection puts out. So a row starts in layer l with the recorded hidden state and a stand-in for the attention module
that only runs the real output projection; the later layers run as they are, for many rows at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from circuitcheck.runtimes.pytorch.engine.clean_pass import CleanPass
from circuitcheck.runtimes.pytorch.engine.shadow import answering, shadowed
from circuitcheck.runtimes.pytorch.forward import final_hidden, unembedding
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.ports.hooks import pre_hook, split_heads
from circuitcheck.runtimes.pytorch.ports.structure import Head, LayerSite

Entry = Literal["joined", "single", "rows"]
"""How rows start in their first layer, where only what depends on the attention's output differs between head sets:
`joined` hands in all prompts as one long row, `single` one prompt at a time, `rows` one row for every head set."""

ENTRIES: tuple[Entry, ...] = get_args(Entry)
"""The cheapest first."""


@dataclass(frozen=True)
class Savings:
    """What a replay leaves out, each proven on the model before it is used.

    Attributes:
        entry: how rows start in their first layer.
        last_position: in the last layer only the last position goes into the output projection and the MLP.
    """

    entry: Entry = "joined"
    last_position: bool = True


@dataclass(frozen=True)
class Edits:
    """What replaces `z` in the rows of a block.

    Attributes:
        masks: layer to the heads that are replaced, bool `[sets, n_heads]`; only layers where there are any.
        values: for each layer what replaces `z`, `[prompts, seq or 1, n_heads, d_head]`.
    """

    masks: Mapping[int, Tensor]
    values: Sequence[Tensor]

    def apply(self, layer: int, z: Tensor) -> Tensor:
        """Edits `z`, `[sets or 1, prompts, seq, n_heads, d_head]`; returns `[sets, prompts, seq, n_heads, d_head]`."""
        if layer not in self.masks:
            return z
        mask = self.masks[layer][:, None, None, :, None]
        value = self.values[layer][None, :, -z.shape[2] :].to(z.dtype)
        replaced = torch.where(mask, value, z[:, :, -value.shape[2] :])
        if replaced.shape[2] == z.shape[2]:
            return replaced
        kept = z[:, :, : -value.shape[2]].expand(len(replaced), -1, -1, -1, -1)
        return torch.cat([kept, replaced], 2)

    def part(self, prompt: int) -> Edits:
        """The same for one of the prompts."""
        return Edits(self.masks, [value[prompt : prompt + 1] for value in self.values])


def block_edits(model: HookedModel, head_sets: Sequence[Collection[Head]], values: Sequence[Tensor]) -> Edits:
    """The edits that put `values` into each head set; for each layer `[prompts, seq or 1, n_heads, d_head]`."""
    masks: dict[int, Tensor] = {}
    for number, heads in enumerate(head_sets):
        for layer, head in heads:
            if layer not in masks:
                masks[layer] = torch.zeros(len(head_sets), model.structure.layers[layer].n_heads, dtype=torch.bool)
            masks[layer][number, head] = True
    return Edits({layer: mask.to(model.device) for layer, mask in masks.items()}, values)


@dataclass(frozen=True)
class Replay:
    """Runs rows from the record of a clean pass.

    Attributes:
        model: the model that the record is of.
        clean: the record.
        savings: what may be left out.
    """

    model: HookedModel
    clean: CleanPass
    savings: Savings

    def run(self, first: int, prompts: slice, sets: int, edits: Edits) -> Tensor:
        """What the unembedding reads at the last position.

        Args:
            first: layer in which the rows start; no earlier layer is edited.
            prompts: the rows' prompts.
            sets: head sets of each prompt.
            edits: what replaces `z`.

        Returns:
            `[sets * prompts, d_model]`, the prompts of one set behind one another.
        """
        hidden = self.enter(first, prompts, sets, edits)
        for layer in range(first + 1, len(self.clean.layers)):
            hidden = self.layer(layer, hidden, prompts, sets, edits)
        return self.finish(hidden)

    def enter(self, first: int, prompts: slice, sets: int, edits: Edits) -> Tensor:
        """The hidden state after layer `first`, whose attention is not computed, `[sets * prompts, seq, d_model]`."""
        if self.savings.entry == "rows":
            return self._enter_rows(first, prompts, sets, edits)
        if self.savings.entry == "joined":
            return self._enter_joined(first, prompts, sets, edits).flatten(0, 1)
        parts = [
            self._enter_joined(first, slice(prompt, prompt + 1), sets, edits.part(number))
            for number, prompt in enumerate(range(prompts.start, prompts.stop))
        ]
        return torch.cat(parts, 1).flatten(0, 1)

    def _enter_joined(self, first: int, prompts: slice, sets: int, edits: Edits) -> Tensor:
        """`[sets, prompts, seq, d_model]`; without attention no position knows of another, so prompts may be joined."""
        record, site = self.clean.layers[first], self.model.structure.layers[first]
        positions = self._positions(first)
        z = self._edited(first, prompts, sets, edits).flatten(1, 2)
        hidden = record.hidden[prompts, positions]
        one = slice(prompts.start, prompts.start + 1)
        with ExitStack() as stack:
            if site.mlp is not None and record.mlp is not None:
                recorded = record.mlp[prompts, positions].flatten(0, 1)[None]
                stack.enter_context(answering(self.model.module.get_submodule(site.mlp), recorded, sets))
            output = self._enter(first, z, record.call(hidden.flatten(0, 1)[None], one, 1))
        return output.reshape(sets, *hidden.shape[:2], -1)

    def _enter_rows(self, first: int, prompts: slice, sets: int, edits: Edits) -> Tensor:
        record = self.clean.layers[first]
        z = self._edited(first, prompts, sets, edits).flatten(0, 1)
        hidden = record.hidden[prompts, self._positions(first)].repeat(sets, 1, 1)
        return self._enter(first, z, record.call(hidden, prompts, sets))

    def _edited(self, first: int, prompts: slice, sets: int, edits: Edits) -> Tensor:
        """`[sets, prompts, seq, n_heads * d_head]`."""
        z = self.clean.layers[first].z[None, prompts, self._positions(first)]
        return edits.apply(first, z).expand(sets, -1, -1, -1, -1).flatten(3)

    def _enter(self, first: int, z: Tensor, call: tuple[list[Any], dict[str, Any]]) -> Tensor:
        site = self.model.structure.layers[first]
        projection = self.model.module.get_submodule(site.projection)
        outputs = self.clean.layers[first].attention_outputs

        def project(*_: Any, **__: Any) -> Any:
            return _outputs(projection(z), outputs)

        # The hook writes z once more, because what stands in front of the projection may have changed it; it did so
        # before z was recorded as well.
        with (
            pre_hook(projection, lambda _, arguments: (z, *arguments[1:])),
            shadowed(self.model.module.get_submodule(site.attention), project),
        ):
            arguments, keywords = call
            return _first(self.model.module.get_submodule(site.path)(*arguments, **keywords))

    def layer(self, layer: int, hidden: Tensor, prompts: slice, sets: int, edits: Edits) -> Tensor:
        """The hidden state after `layer`, of which only the last position counts where that is left to be saved."""
        site, record = self.model.structure.layers[layer], self.clean.layers[layer]
        positions = self._positions(layer)
        with ExitStack() as stack:
            if layer in edits.masks or positions != slice(None):
                writer = _writer(site, sets, positions, edits)
                stack.enter_context(pre_hook(self.model.module.get_submodule(site.projection), writer))
            if site.mlp is not None and positions != slice(None):
                selector = _selector(hidden.shape[:2], positions)
                stack.enter_context(pre_hook(self.model.module.get_submodule(site.mlp), selector))
            arguments, keywords = record.call(hidden, prompts, sets)
            output = _first(self.model.module.get_submodule(site.path)(*arguments, **keywords))
        return output[:, positions]

    def finish(self, hidden: Tensor) -> Tensor:
        """What the unembedding reads at the last position, `[rows, d_model]`, after the last layer gave `hidden`.

        The model's own forward runs with its layers passed over, so whatever stands between the last layer and the
        unembedding runs as it is.
        """
        module, sites = self.model.module, self.model.structure.layers
        outputs = self.clean.layers[-1].layer_outputs
        # What the layers are seen to return is small, since their own hooks run on it, and its values do not matter.
        nothing = _outputs(hidden[:1, :1], outputs)
        with ExitStack() as stack:
            for site in sites:
                stack.enter_context(shadowed(module.get_submodule(site.path), lambda *_, **__: nothing))
            handle = module.get_submodule(sites[-1].path).register_forward_hook(lambda *_: _outputs(hidden, outputs))
            stack.callback(handle.remove)
            stack.enter_context(shadowed(unembedding(self.model), lambda x, *_, **__: x))
            return final_hidden(self.model, self.clean.ids[:1, -hidden.shape[1] :])

    def _positions(self, layer: int) -> slice:
        last = layer == len(self.clean.layers) - 1
        return slice(-1, None) if last and self.savings.last_position else slice(None)


def _writer(site: LayerSite, sets: int, positions: slice, edits: Edits) -> Callable[..., tuple[Any, ...]]:
    def write(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        z = split_heads(site, arguments[0][:, positions])
        edited = edits.apply(site.layer, z.view(sets, -1, *z.shape[1:]))
        return (edited.flatten(0, 1).flatten(-2).contiguous(), *arguments[1:])

    return write


def _selector(shape: torch.Size, positions: slice) -> Callable[..., tuple[Any, ...] | None]:
    def select(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        # Some layers hand their MLP all tokens behind one another; those have no position to select.
        if not arguments or arguments[0].shape[:2] != shape:
            return None
        return (arguments[0][:, positions].contiguous(), *arguments[1:])

    return select


def _outputs(first: Tensor, count: int) -> Any:
    """`first` as a module returns it: bare, or in a tuple of `count` things of which the others are not computed."""
    return (first, *(None,) * (count - 1)) if count else first


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output  # type: ignore[no-any-return]
