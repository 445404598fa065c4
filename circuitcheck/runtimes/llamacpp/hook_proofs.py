"""Proves on the loaded file that reading and writing values in llama.cpp means what it says."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.errors import SiteError
from circuitcheck.runtimes.llamacpp.decoding import Decoder
from circuitcheck.runtimes.llamacpp.gguf_weights import GGUFWeights
from circuitcheck.runtimes.llamacpp.row_passes import Ids, Passes

FloatArray = NDArray[np.float32]

LARGE = 10.0
"""By how much the largest value of a layer is exceeded by what is put there to see that it has an effect."""

STEPS = 64
"""Rounding errors of float32 that a rebuilt sum may be off by, beside the sum of the magnitudes of its terms."""


def require_independent_rows(passes: Passes, ids: Ids) -> str:
    """Why rows cannot run side by side; empty where they can.

    The same row beside others, and beside one whose units are edited, must have the same logits, bit by bit.

    Args:
        passes: runs the model.
        ids: three different prompts, `[3, seq]`.
    """
    first, one, other = ids
    pair = np.stack([first, one])
    if passes.rows_at_once(ids.shape[1]) < len(pair):
        return ""
    beside = passes.logits(pair)[0]
    if not np.array_equal(beside, passes.logits(np.stack([first, other]))[0], equal_nan=True):
        return "a prompt's logits depend on the other prompts of its pass"
    _, values = passes.read(pair)
    masks = [np.zeros((len(pair), group.count), np.bool_) for group in passes.layout.groups]
    for mask in masks:
        mask[1] = True
    edited = passes.written(pair, masks, [value + LARGE * np.abs(value).max() for value in values])
    if not np.array_equal(beside, edited[0], equal_nan=True):
        return "an edit of one row of a pass changes another"
    return ""


def prove_hooks(passes: Passes, weights: GGUFWeights, ids: Ids) -> None:
    """Runs every check on every layer.

    Args:
        passes: runs the model.
        weights: of its file.
        ids: a few prompts of one length, `[rows, seq]`.

    Raises:
        SiteError: lists every failure.
    """
    logits, values = passes.read(ids)
    failures = [*_finite(logits)] or [
        *_as_untouched(passes, ids, logits),
        *_write_back(passes, ids, logits, values),
        *_matters(passes, ids, logits, values),
        *_rebuilds_output(passes, weights, ids),
    ]
    if failures:
        raise SiteError(
            f"{passes.model.name}: the hooks fail {len(failures)} proof(s), so no {passes.layout.kind} of this model "
            "can be measured:\n  " + "\n  ".join(failures)
        )


def _finite(logits: FloatArray) -> Iterator[str]:
    """NaN equals nothing, itself included, so a model that gives it would fail every other check for a wrong reason."""
    if not np.isfinite(logits).all():
        yield "output layer: the model's logits are NaN or infinite; its weights or activations overflow"


def _as_untouched(passes: Passes, ids: Ids, logits: FloatArray) -> Iterator[str]:
    """A run that is stopped at every value is the one that llama.cpp makes in one go."""
    rows, seq = ids.shape
    passes.close()  # one context at a time: each has a cache, and room for what a pass makes
    options = {"is_hooked": False, "is_whole": passes.is_whole}
    with Decoder(passes.model, passes.cache, rows, seq, passes.threads, **options) as untouched:
        own = untouched.run(ids)
    if not np.array_equal(own, logits):
        yield f"all layers, check 'untouched': reading values changes logits by up to {_largest(own - logits):.3g}"


def _write_back(passes: Passes, ids: Ids, logits: FloatArray, values: list[FloatArray]) -> Iterator[str]:
    """Writing back what was read changes no bit."""
    for place, group in enumerate(passes.layout.groups):
        written = passes.written(ids, _only(passes, place, len(ids)), values)
        if not np.array_equal(written, logits):
            change = _largest(written - logits)
            yield f"layer {group.layer}, check 'write back': what was read changes logits by up to {change:.3g}"


def _matters(passes: Passes, ids: Ids, logits: FloatArray, values: list[FloatArray]) -> Iterator[str]:
    """Other values in a layer's units change the logits of every row."""
    large = [value + LARGE * np.abs(value).max() for value in values]
    for place, group in enumerate(passes.layout.groups):
        changed = passes.written(ids, _only(passes, place, len(ids)), large)
        same = [row for row in range(len(ids)) if np.array_equal(changed[row], logits[row])]
        if same:
            yield f"layer {group.layer}, check 'ablation matters': a large change of its units changes nothing"


def _rebuilds_output(passes: Passes, weights: GGUFWeights, ids: Ids) -> Iterator[str]:
    """Where the projection is stored in float32, what the units write adds up to what it puts out."""
    if passes.layout.kind != "head":
        return
    plain = [layer for layer in range(weights.layers) if weights.reads_plainly(layer)]
    if not plain:
        return
    values, outputs = passes.read_products(ids)
    for layer in plain:
        matrix = weights.written(layer).astype(np.float64)
        rebuilt = np.einsum("rscw,cwo->rso", values[layer], matrix, optimize=True)
        terms = np.einsum("rscw,cwo->rso", np.abs(values[layer]), np.abs(matrix), optimize=True)
        error = np.abs(rebuilt - outputs[layer])
        allowed = STEPS * np.finfo(np.float32).eps * np.maximum(terms, np.abs(outputs[layer]).max())
        if not (error <= allowed).all():
            yield (
                f"layer {layer}, check 'heads rebuild the output': the sum over heads of z W_O differs from its output "
                f"by {error.max():.3g} (rounding explains {allowed.max():.3g})"
            )


def _only(passes: Passes, place: int, rows: int) -> list[NDArray[np.bool_]]:
    """Masks of all units of one group in all rows."""
    return [np.full((rows, group.count), number == place) for number, group in enumerate(passes.layout.groups)]


def _largest(difference: FloatArray) -> float:
    return float(np.abs(difference).max())
