"""One clean pass, with everything that a replay needs of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from circuitcheck.core.errors import ModelError
from circuitcheck.runtimes.pytorch.engine.row_blocks import is_out_of_memory
from circuitcheck.runtimes.pytorch.forward import final_hidden, unembedding
from circuitcheck.runtimes.pytorch.hooks import pre_hook
from circuitcheck.runtimes.pytorch.shadow import shadowed
from circuitcheck.runtimes.pytorch.torch_model import TorchModel

HIDDEN = "hidden_states"
"""What layers that take their input by keyword call it."""

REFUSALS = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError)
"""What a model's own code raises when it is called in a way that it does not expect."""

PACKAGE = __name__.partition(".")[0]


class CannotReplayError(Exception):
    """This model must be run by full passes; the message says why."""


class OfPrompts(ABC):
    """An argument of a layer that knows how it looks for some rows."""

    @abstractmethod
    def rows(self, prompts: slice, copies: int) -> Any:
        """What the layer is given for `copies` rows of each of these prompts, those of one copy behind one another."""


@dataclass(frozen=True)
class PerPrompt(OfPrompts):
    """An argument of a layer with one entry a prompt, `[batch, ...]`, or `[1, ...]` where all entries are equal."""

    tensor: Tensor

    def rows(self, prompts: slice, copies: int) -> Tensor:
        """`[copies * len(prompts), ...]`, the prompts of one copy behind one another."""
        if len(self.tensor) == 1:
            count = (prompts.stop - prompts.start) * copies
            return self.tensor.expand(count, *self.tensor.shape[1:])
        return self.tensor[prompts].repeat(copies, *(1,) * (self.tensor.dim() - 1))


@dataclass(frozen=True)
class LayerRecord:
    """What one layer did in the clean pass.

    Attributes:
        arguments: its positional arguments; tensors with one entry a prompt as `PerPrompt`, the hidden state as None.
        keywords: its keyword arguments, likewise.
        place: position or keyword of the hidden state.
        hidden: the hidden state that it was given, `[batch, seq, d_model]`.
        z: the input of its attention's output projection, `[batch, seq, n_heads * d_head]`.
        mlp: what its MLP put out, `[batch, seq, d_model]`, or None where that is not one tensor of that shape.
        attention_outputs: how many things its attention module returned in a tuple; 0 for a bare tensor.
        layer_outputs: how many things it returned in a tuple itself; 0 for a bare tensor.
    """

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    place: int | str
    hidden: Tensor
    z: Tensor
    mlp: Tensor | None
    attention_outputs: int
    layer_outputs: int

    def call(self, hidden: Tensor, prompts: slice, copies: int) -> tuple[list[Any], dict[str, Any]]:
        """Arguments and keywords for rows of these prompts, with `hidden` in place of the recorded hidden state."""
        arguments = [_rows(value, prompts, copies) for value in self.arguments]
        keywords = {name: _rows(value, prompts, copies) for name, value in self.keywords.items()}
        if isinstance(self.place, int):
            arguments[self.place] = hidden
        else:
            keywords[self.place] = hidden
        return arguments, keywords

    @property
    def is_called_alike(self) -> bool:
        """Whether the layer was given the same for every prompt, but for hidden states and kept keys and values."""
        return not any(isinstance(value, PerPrompt) and len(value.tensor) > 1 for value in _parts(self))


@dataclass(frozen=True)
class CleanPass:
    """A clean pass of some prompts.

    Attributes:
        ids: token ids, `[batch, seq]`.
        layers: what each layer did.
        final: what the unembedding read at the last position, `[batch, d_model]`.
    """

    ids: Tensor
    layers: tuple[LayerRecord, ...]
    final: Tensor


def record_clean_pass(model: TorchModel, ids: Tensor, cache: Any = None) -> CleanPass:
    """Runs the prompts and records every layer.

    Args:
        model: the model, in evaluation mode.
        ids: token ids, `[batch, seq]`, on the model's device.
        cache: keys and values of what stands before `ids`, to which those of `ids` are added; none by default.

    Raises:
        CannotReplayError: a layer does not run once, or takes or returns something that a replay cannot stand in for;
            or the model raises, which a full pass then does again if it is not for the unembedding that is left out.
    """
    recorder = _Recorder(len(ids))
    module = model.module
    with ExitStack() as stack:
        for site in model.structure.layers:
            layer, attention = module.get_submodule(site.path), module.get_submodule(site.attention)
            projection = module.get_submodule(site.projection)
            if layer is attention or attention is projection:
                raise CannotReplayError(f"{site.path}: layer, attention and output projection are not modules apart")
            handles = [
                layer.register_forward_pre_hook(recorder.read_call(site.layer), with_kwargs=True),
                layer.register_forward_hook(recorder.read_form(site.layer, recorder.layer_outputs)),
                attention.register_forward_hook(recorder.read_form(site.layer, recorder.attention_outputs)),
            ]
            if site.mlp is not None:
                mlp = module.get_submodule(site.mlp)
                handles.append(mlp.register_forward_hook(recorder.read_mlp(site.layer)))
            for handle in handles:
                stack.callback(handle.remove)
            stack.enter_context(pre_hook(projection, recorder.read_z(site.layer), prepend=True))
        # Only what the unembedding is given counts, and the product with a whole vocabulary is not cheap.
        stack.enter_context(shadowed(unembedding(model), lambda x, *_, **__: x))
        try:
            final = final_hidden(model, ids, cache)
        except REFUSALS as error:
            if not is_refusal(error):
                raise
            raise CannotReplayError(f"it cannot be run without its unembedding ({refusal(error)})") from error
    layers = tuple(recorder.layer(site.layer, site.path) for site in model.structure.layers)
    return CleanPass(ids, layers, final)


def is_refusal(error: BaseException) -> bool:
    """Whether an error was raised by the model's own code, and neither by ours nor by an allocator."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    is_ours = trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0] == PACKAGE
    return isinstance(error, REFUSALS) and not is_ours and not is_out_of_memory(error)


@contextmanager
def refused_as_model_errors(model: TorchModel, ids: Sequence[int]) -> Iterator[None]:
    """The first passes of all: what a model's own code, or its metric's, raises in them is said of the model.

    Args:
        model: which one.
        ids: shape of the token ids that are run.

    Raises:
        ModelError: instead of such an error.
    """
    try:
        yield
    except (*REFUSALS, ArithmeticError) as error:
        if not is_refusal(error) and not isinstance(error, ArithmeticError):
            raise
        raise ModelError(
            f"{model.name} cannot be run on token ids of the shape {list(ids)}, by its own code or that of its metric: "
            f"{refusal(error)}"
        ) from error


def refusal(error: BaseException) -> str:
    """An error of a model's own code, short enough for a note."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class _Recorder:
    """Hooks that note what the layers of one pass were given and gave back."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.calls: dict[int, tuple[tuple[Any, ...], dict[str, Any], int | str, Tensor]] = {}
        self.z: dict[int, Tensor] = {}
        self.mlps: dict[int, Tensor] = {}
        self.layer_outputs: dict[int, int] = {}
        self.attention_outputs: dict[int, int] = {}

    def read_call(self, layer: int) -> Callable[..., None]:
        def read(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            place: int | str = 0 if arguments else HIDDEN
            hidden = arguments[0] if arguments else keywords.get(HIDDEN)
            if layer in self.calls or not isinstance(hidden, Tensor) or hidden.dim() != 3:
                raise CannotReplayError(f"layer {layer} runs more than once, or not on [batch, seq, d_model]")
            rest = (None, *arguments[1:]) if arguments else ()
            others = {name: value for name, value in keywords.items() if name != place}
            # A clone: some layers add to their input in place.
            self.calls[layer] = (_condensed(rest, self.batch), _condensed(others, self.batch), place, hidden.clone())

        return read

    def read_z(self, layer: int) -> Callable[..., None]:
        def read(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            if layer in self.calls and arguments[0].shape[:-1] != self.calls[layer][-1].shape[:-1]:
                raise CannotReplayError(f"layer {layer} hands its output projection no [batch, seq, ...]")
            # A clone: it is live storage that the layer may write to again.
            self.z[layer] = arguments[0].clone()

        return read

    def read_form(self, layer: int, forms: dict[int, int]) -> Callable[..., None]:
        def read(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor):
                forms[layer] = 0
            elif type(output) is tuple and output and isinstance(output[0], Tensor):
                forms[layer] = len(output)
            else:
                raise CannotReplayError(f"layer {layer} or its attention returns {type(output).__name__}")

        return read

    def read_mlp(self, layer: int) -> Callable[..., None]:
        def read(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor) and layer in self.calls and output.shape == self.calls[layer][-1].shape:
                self.mlps[layer] = output.clone()

        return read

    def layer(self, layer: int, path: str) -> LayerRecord:
        if layer not in self.calls or layer not in self.z or layer not in self.attention_outputs:
            raise CannotReplayError(f"{path} or its attention did not run in a full pass")
        arguments, keywords, place, hidden = self.calls[layer]
        forms = self.attention_outputs[layer], self.layer_outputs[layer]
        return LayerRecord(arguments, keywords, place, hidden, self.z[layer], self.mlps.get(layer), *forms)


def _condensed(value: Any, batch: int) -> Any:
    """`value` with tensors of one entry a prompt marked, and kept once where all prompts' entries are equal."""
    if isinstance(value, Tensor) and value.dim() > 1 and len(value) == batch:
        return PerPrompt(value[:1].clone() if torch.equal(value, value[:1].expand_as(value)) else value)
    if type(value) in (tuple, list):
        return type(value)(_condensed(part, batch) for part in value)
    if type(value) is dict:
        return {name: _condensed(part, batch) for name, part in value.items()}
    return value


def _parts(value: Any) -> Iterator[Any]:
    """What a layer was given, its containers opened."""
    if isinstance(value, LayerRecord):
        value = (value.arguments, value.keywords)
    if type(value) is dict:
        value = tuple(value.values())
    if type(value) in (tuple, list):
        for part in value:
            yield from _parts(part)
    else:
        yield value


def _rows(value: Any, prompts: slice, copies: int) -> Any:
    if isinstance(value, OfPrompts):
        return value.rows(prompts, copies)
    if type(value) in (tuple, list):
        return type(value)(_rows(part, prompts, copies) for part in value)
    if type(value) is dict:
        return {name: _rows(part, prompts, copies) for name, part in value.items()}
    return value
