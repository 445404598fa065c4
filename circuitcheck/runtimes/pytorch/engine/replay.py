"""Replaying what follows an intervention, from the record of a clean pass.

Replacing units in layer l changes nothing before layer l, and in layer l nothing that its attention's output projection
is not part of. So a row starts in layer l with the recorded hidden state and a stand-in for the attention module
that only runs the real output projection; the later layers run as they are, for many rows at once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from circuitcheck.runtimes.pytorch.engine.clean_pass import CleanPass
from circuitcheck.runtimes.pytorch.forward import final_hidden, unembedding
from circuitcheck.runtimes.pytorch.hooks import pre_hook
from circuitcheck.runtimes.pytorch.ports.edits import Edits
from circuitcheck.runtimes.pytorch.shadow import answering, shadowed
from circuitcheck.runtimes.pytorch.torch_model import TorchModel

Entry = Literal["joined", "single", "rows"]
"""How rows start in their first layer, where only what depends on the attention's output differs between sets of units:
`joined` hands in all prompts as one long row, `single` one prompt at a time, `rows` one row for every set."""

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
class Replay:
    """Runs rows from the record of a clean pass.

    Attributes:
        model: the model that the record is of.
        clean: the record.
        savings: what may be left out.
    """

    model: TorchModel
    clean: CleanPass
    savings: Savings

    def enter(self, first: int, prompts: slice, sets: int, edits: Edits) -> Tensor:
        """The hidden state after the layer in which rows start, whose attention is not computed.

        Args:
            first: that layer; no earlier one is edited.
            prompts: the rows' prompts.
            sets: sets of units for each prompt.
            edits: what replaces the units.

        Returns:
            `[sets * prompts, seq, d_model]`, the prompts of one set behind one another.
        """
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
        z = record.z[prompts, positions].flatten(0, 1).expand(sets if self._parts_early(first, edits) else 1, -1, -1)
        hidden = record.hidden[prompts, positions]
        one = slice(prompts.start, prompts.start + 1)
        with ExitStack() as stack:
            if site.mlp is not None and record.mlp is not None and not self._edits_mlp(first, edits):
                recorded = record.mlp[prompts, positions].flatten(0, 1)[None]
                stack.enter_context(answering(self.model.module.get_submodule(site.mlp), recorded, sets))
            output = self._enter(first, z, edits, hidden.shape[1], record.call(hidden.flatten(0, 1)[None], one, 1))
        return output.reshape(sets, *hidden.shape[:2], -1)

    def _parts_early(self, layer: int, edits: Edits) -> bool:
        """Whether sets are rows of their own from the output projection on; else they are one row until they differ.

        They are also where an MLP is edited as a whole: a layer that calls its maps itself, as OPT's does, may have
        made one row of all tokens by then, to whose residual the outputs of several sets cannot be added.
        """
        site = self.model.structure.layers[layer]
        ports = [edits.ports[place] for place in edits.in_layer(layer)]
        return any(port.routed or port.module in (site.projection, site.mlp) for port in ports)

    def _edits_mlp(self, layer: int, edits: Edits) -> bool:
        """Whether the MLP has to run, because something in it or behind it is replaced."""
        projection = self.model.structure.layers[layer].projection
        return any(edits.ports[place].module != projection for place in edits.in_layer(layer))

    def _enter_rows(self, first: int, prompts: slice, sets: int, edits: Edits) -> Tensor:
        record, positions = self.clean.layers[first], self._positions(first)
        z = record.z[prompts, positions].repeat(sets, 1, 1)
        hidden = record.hidden[prompts, positions].repeat(sets, 1, 1)
        return self._enter(first, z, edits, hidden.shape[1], record.call(hidden, prompts, sets))

    def _enter(self, first: int, z: Tensor, edits: Edits, seq: int, call: tuple[list[Any], dict[str, Any]]) -> Tensor:
        site, module = self.model.structure.layers[first], self.model.module
        projection = module.get_submodule(site.projection)
        outputs = self.clean.layers[first].attention_outputs

        def project(*_: Any, **__: Any) -> Any:
            return _outputs(projection(z), outputs)

        with (
            edits.in_place(module, edits.in_layer(first), seq=seq),
            # Rows whose z nothing edited share it, and some projections need rows of their own.
            pre_hook(projection, lambda _, arguments: (arguments[0].contiguous(), *arguments[1:])),
            shadowed(module.get_submodule(site.attention), project),
        ):
            arguments, keywords = call
            return _first(module.get_submodule(site.path)(*arguments, **keywords))

    def layer(self, layer: int, hidden: Tensor, prompts: slice, sets: int, edits: Edits) -> Tensor:
        """The hidden state after `layer`, of which only the last position counts where that is left to be saved."""
        site, record, module = self.model.structure.layers[layer], self.clean.layers[layer], self.model.module
        positions = self._positions(layer)
        with ExitStack() as stack:
            stack.enter_context(edits.in_place(module, edits.in_layer(layer), sets=sets))
            if positions != slice(None):
                selector = _selector(hidden.shape[:2], positions)
                for path in filter(None, (site.projection, site.mlp)):
                    stack.enter_context(pre_hook(module.get_submodule(path), selector, prepend=True))
            arguments, keywords = record.call(hidden, prompts, sets)
            output = _first(module.get_submodule(site.path)(*arguments, **keywords))
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
