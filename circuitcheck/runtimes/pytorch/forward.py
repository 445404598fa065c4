"""One forward pass, and the metric read from it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.metric import LOG_PROBABILITY, LOGIT_DIFFERENCE
from circuitcheck.runtimes.pytorch.hooks import record_input
from circuitcheck.runtimes.pytorch.logit_transform import logit_transform
from circuitcheck.runtimes.pytorch.offload import runs_own_forward, stored
from circuitcheck.runtimes.pytorch.torch_model import TorchModel

PLAIN = logit_transform(None)
"""The transform of a model that does nothing to its logits."""

CHUNK = 2**22
"""Weights of the unembedding that are applied in float32 at once, 16 MiB of them."""


def metric_of(model: TorchModel, ids: Tensor, answer: Tensor, foil: Tensor) -> Tensor:
    """The model's metric m of some prompts, from one forward pass.

    Args:
        model: the model, and what is measured of it.
        ids: token ids, `[batch, seq]`, on the model's device.
        answer: token ids, `[batch]`.
        foil: token ids, `[batch]`.

    Returns:
        float32, `[batch]`.

    Raises:
        ConfigurationError: a function that gives no float for every prompt, or a model without an unembedding.
    """
    function = model.quantity.function
    if function is None:
        return metric_of_hidden(model, final_hidden(model, ids), answer, foil)
    value = function(whole_output(model, ids), ids, answer, foil)
    if not isinstance(value, Tensor) or value.shape != answer.shape or not value.is_floating_point():
        given = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ConfigurationError(
            f"metric {model.quantity.name} returned {given}, but must return one float a prompt, {list(answer.shape)}."
        )
    return value.float()


def metric_of_hidden(model: TorchModel, hidden: Tensor, answer: Tensor, foil: Tensor) -> Tensor:
    """The model's metric, one that has a name, from the input of the unembedding `[rows, d_model]`; as `metric_of`."""
    return _READERS[model.quantity.name](model, hidden, answer, foil)


def run_model(model: TorchModel, ids: Tensor) -> Any:
    """Runs the model for what hooks see of it; logits are computed for the last position only, where that can be.

    Args:
        model: the model, whose own code runs unchanged.
        ids: token ids, `[batch, seq]`, on the model's device.

    Returns:
        What its forward returns.
    """
    return model.module(ids, **_pass_options(model.module, use_cache=False, logits_to_keep=1))


def whole_output(model: TorchModel, ids: Tensor) -> Any:
    """What the model's forward returns for `ids`, `[batch, seq]`, of all positions."""
    return model.module(ids, **_pass_options(model.module, use_cache=False))


def final_hidden(model: TorchModel, ids: Tensor, cache: Any = None) -> Tensor:
    """Runs the model and returns what its unembedding reads at the last position.

    Args:
        model: the model, whose own code runs unchanged.
        ids: token ids, `[batch, seq]`, on the model's device.
        cache: keys and values of what stands before `ids`, to which those of `ids` are added; none by default.

    Returns:
        `[batch, d_model]`, in the model's own dtype.

    Raises:
        ConfigurationError: the model has no unembedding.
    """
    kept = {} if cache is None else {"past_key_values": cache}
    with record_input(unembedding(model)) as inputs:
        model.module(ids, **kept, **_pass_options(model.module, use_cache=cache is not None, logits_to_keep=1))
    return inputs[-1][:, -1]


def unembedding(model: TorchModel) -> nn.Module:
    """The output layer.

    Raises:
        ConfigurationError: the model has none.
    """
    path = model.structure.output_layer
    if path is None:
        raise ConfigurationError(
            f"{model.name} has no unembedding, so {model.quantity.name} cannot be read from it; give a metric of your "
            "own, package.module:function."
        )
    return model.module.get_submodule(path)


def last_logits(model: TorchModel, ids: Tensor) -> Tensor:
    """The model's own logits at the last position, `[batch, vocabulary]`, after whatever it does to them.

    A classifier's logits `[batch, classes]`, and the last hidden state of a model without logits.
    """
    return _last_of(run_model(model, ids))


def hidden_and_logits(model: TorchModel, ids: Tensor) -> tuple[Tensor, Tensor]:
    """What `final_hidden` and `last_logits` give, from one pass.

    Raises:
        ConfigurationError: the model has no unembedding.
    """
    with record_input(unembedding(model)) as inputs:
        output = run_model(model, ids)
    return inputs[-1][:, -1], _last_of(output)


def _last_of(output: Any) -> Tensor:
    """Logits at the last position in what a model's forward returns."""
    logits: Tensor = output if isinstance(output, Tensor) else getattr(output, "logits", output[0])
    return logits[:, -1] if logits.dim() == 3 else logits


def logit_difference(model: TorchModel, hidden: Tensor, answer: Tensor, foil: Tensor) -> Tensor:
    """The metric m: logit(answer) - logit(foil), in logits.

    The two rows of the unembedding are applied in float32, because a half-precision unembedding rounds logits to steps
    of up to 1, and then what the model does to its logits. A quantized unembedding is used as it is.

    Args:
        model: the model that `hidden` comes from.
        hidden: input of the unembedding, `[rows, d_model]`.
        answer: token ids, `[rows]`.
        foil: token ids, `[rows]`.

    Returns:
        float32, `[rows]`.
    """
    output, transform = unembedding(model), _transform(model)
    rows = float_rows(output)
    if rows is None:
        logits = transform(output(hidden).float())
        number = torch.arange(len(hidden), device=hidden.device)
        return logits[number, answer] - logits[number, foil]
    if transform is not PLAIN:
        return transform(_row_logits(rows, hidden, answer)) - transform(_row_logits(rows, hidden, foil))
    weight, bias = rows
    difference = ((weight[answer].float() - weight[foil].float()) * hidden.float()).sum(-1)
    return difference if bias is None else difference + bias[answer].float() - bias[foil].float()


def log_probability(model: TorchModel, hidden: Tensor, answer: Tensor) -> Tensor:
    """The logarithm of the answer's probability, over the whole vocabulary.

    A plain unembedding is applied in float32, part by part, so that no copy of a whole one is made. A quantized one is
    used as it is.

    Args:
        model: the model that `hidden` comes from.
        hidden: input of the unembedding, `[rows, d_model]`.
        answer: token ids, `[rows]`.

    Returns:
        In nats, float32, `[rows]`.
    """
    output, transform = unembedding(model), _transform(model)
    rows = float_rows(output)
    if rows is None:
        return transform(output(hidden).float()).log_softmax(-1).gather(-1, answer[:, None])[:, 0]
    weight, bias = rows
    size, parts = chunk_size(weight), []
    for start in range(0, len(weight), size):
        part = slice(start, start + size)
        logits = hidden.float() @ weight[part].float().T
        logits = logits if bias is None else logits + bias[part].float()
        parts.append(transform(logits).logsumexp(-1))
    return transform(_row_logits(rows, hidden, answer)) - torch.stack(parts, -1).logsumexp(-1)


def chunk_size(weight: Tensor) -> int:
    """Rows of an unembedding `[vocabulary, d_model]` that are applied at once."""
    return max(1, CHUNK // weight.shape[1])


def _row_logits(rows: tuple[Tensor, Tensor | None], hidden: Tensor, token: Tensor) -> Tensor:
    """Logit of one token a row, before what the model does to it, float32 `[rows]`."""
    weight, bias = rows
    logit = (weight[token].float() * hidden.float()).sum(-1)
    return logit if bias is None else logit + bias[token].float()


def _transform(model: TorchModel) -> Callable[[Tensor], Tensor]:
    return logit_transform(getattr(model.module, "config", None))


_READERS: dict[str, Callable[[TorchModel, Tensor, Tensor, Tensor], Tensor]] = {
    LOGIT_DIFFERENCE.name: logit_difference,
    LOG_PROBABILITY.name: lambda model, hidden, answer, _: log_probability(model, hidden, answer),
}
"""How the metrics that have a name are read from the input of the unembedding."""


def float_rows(output: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """Weight `[vocabulary, d_model]` and bias `[vocabulary]` of a plain unembedding; None where it is quantized."""
    weight = plain_weight(output)
    return (weight, stored(output, "bias")) if isinstance(output, nn.Linear) and weight is not None else None


def plain_weight(module: nn.Module) -> Tensor | None:
    """The module's weight, if it is an ordinary floating-point tensor and not a quantized one in disguise.

    A module with a forward of its own (compressed-tensors' rounds its input) does more than its weight says.
    """
    weight = stored(module, "weight")
    plain = type(weight) in (Tensor, nn.Parameter) and runs_own_forward(module)
    return weight if plain and weight.is_floating_point() else None


def _pass_options(module: nn.Module, **options: Any) -> dict[str, Any]:
    """No cache (a new pass every time) and only the last position's logits, where the model has these options."""
    known = inspect.signature(module.forward).parameters
    return {name: value for name, value in options.items() if name in known}
