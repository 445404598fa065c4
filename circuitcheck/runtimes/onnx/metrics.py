"""What is measured of a prompt, from the outputs of a graph."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.metric import LOG_PROBABILITY, Metric
from circuitcheck.runtimes.onnx.runner import FloatArray, Rows, Runner
from circuitcheck.runtimes.onnx.weights import bias_of, dense

CHUNK = 2**22
"""Weights of the unembedding that are applied in float32 at once."""


def metric_of(
    runner: Runner, quantity: Metric, run: Rows, answer: NDArray[np.int64], foil: NDArray[np.int64]
) -> FloatArray:
    """The metric m of some prompts, from one pass, float32 `[batch]`.

    Args:
        runner: the model.
        quantity: what is measured.
        run: the prompts, and what is replaced in them.
        answer: token ids, `[batch]`.
        foil: token ids, `[batch]`.

    Raises:
        ConfigurationError: a function that gives no float for every prompt, or a model without logits.
    """
    if quantity.function is not None:
        return _by_function(runner, quantity, run, answer, foil)
    if runner.network.logits is None:
        raise ConfigurationError(
            f"{runner.name} has no logits [batch, seq, vocabulary], from which {quantity.name} is read; give a metric "
            "of your own, package.module:function."
        )
    rows = np.arange(len(run.ids))
    if quantity == LOG_PROBABILITY:
        logits = _wide_logits(runner, run)
        return log_softmax(logits)[rows, answer]
    if runner.network.reads_hidden:
        return _difference(runner, runner.last_hidden(run), answer, foil)
    logits = runner.last_logits(run)
    return logits[rows, answer] - logits[rows, foil]


def log_softmax(logits: FloatArray) -> FloatArray:
    """Logarithms of probabilities, in nats, `[rows, vocabulary]`."""
    double = logits.astype(np.float64)
    double -= double.max(-1, keepdims=True)
    found: FloatArray = (double - np.log(np.exp(double).sum(-1, keepdims=True))).astype(np.float32)
    return found


def _difference(runner: Runner, hidden: FloatArray, answer: NDArray[np.int64], foil: NDArray[np.int64]) -> FloatArray:
    network = runner.network
    assert network.readout is not None
    tokens = sorted({*answer.tolist(), *foil.tolist()})
    rows = dense(network.graph, network.readout.product, tokens).T
    places = {token: place for place, token in enumerate(tokens)}
    one, other = ([places[token] for token in side.tolist()] for side in (answer, foil))
    bias = np.broadcast_to(bias_of(network.graph, network.readout.product), network.vocabulary or 0)
    found: FloatArray = ((rows[one] - rows[other]) * hidden).sum(-1) + bias[answer] - bias[foil]
    return found


def _wide_logits(runner: Runner, run: Rows) -> FloatArray:
    """Logits in float32 also where the model rounds its own."""
    if not runner.network.reads_hidden:
        return runner.last_logits(run)
    network = runner.network
    assert network.readout is not None
    hidden, width = runner.last_hidden(run), network.vocabulary or 0
    size = max(1, CHUNK // hidden.shape[1])
    parts = [
        hidden @ dense(network.graph, network.readout.product, list(range(start, min(start + size, width))))
        for start in range(0, width, size)
    ]
    found: FloatArray = np.concatenate(parts, 1) + bias_of(network.graph, network.readout.product)
    return found


def _by_function(
    runner: Runner, quantity: Metric, run: Rows, answer: NDArray[np.int64], foil: NDArray[np.int64]
) -> FloatArray:
    """A function of the whole output, which is written for the tensors of the reference."""
    import torch
    from transformers.utils import ModelOutput

    assert quantity.function is not None
    names = runner.network.outputs
    found = runner.run(run, names)
    output = ModelOutput(**{name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)})
    value = quantity.function(output, *(torch.from_numpy(part) for part in (run.ids, answer, foil)))
    if not isinstance(value, torch.Tensor) or value.shape != answer.shape or not value.is_floating_point():
        given = f"{value.dtype} {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise ConfigurationError(
            f"metric {quantity.name} returned {given}, but must return one float a prompt, {list(answer.shape)}."
        )
    return np.asarray(value.float().numpy(), np.float32)
