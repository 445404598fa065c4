"""Features of a reference on a task, and of a candidate in whatever basis it keeps its stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from circuitcheck.core.errors import CandidateError, DictionaryError
from circuitcheck.core.features import StreamBasis
from circuitcheck.core.phrases import listed
from circuitcheck.core.prompts import Prompts
from circuitcheck.core.reading import Reading
from circuitcheck.core.units import Layout
from circuitcheck.runtimes.pytorch import FEATURE
from circuitcheck.runtimes.pytorch.engine.dictionary_fit import fit
from circuitcheck.runtimes.pytorch.ports.ports import layout_of
from circuitcheck.runtimes.pytorch.torch_model import TorchModel
from circuitcheck.runtimes.pytorch.unchanged import unchanged
from circuitcheck.runtimes.pytorch.write_maps import reading_of

Model = TypeVar("Model", bound=TorchModel)

SAME = 0.7
"""Features are read in the reference's basis where what they write, read in logits, differs by at most this share. Two
bases that have nothing to do with each other differ by 1.4."""

MORE_TOKENS = 1.25
"""Rows of the embedding that are kept for each dimension, so that some hold every direction."""

ROTATED = (
    "Its residual stream is rotated: features are read through the rotation between the token embeddings, which what "
    "they write, read in logits, proves."
)

MEANLESS = (
    "The rotation has taken the mean over dimensions out of its stream, as of every model with LayerNorms, and {names} "
    "{verb} trained on a stream with its mean (SAELens: center_writing_weights false): what the candidate lacks of it "
    "is a change of features that nothing reads. Give dictionaries of a stream without its mean."
)


def on_task(model: Model, prompts: Prompts) -> Model:
    """The same model, of whose features only those are seen that are active on a task.

    Raises:
        DictionaryError: none is.
    """
    everything = _with_all(model)
    ports = everything.ports(FEATURE)
    with unchanged(model):
        facts, active = fit(model, ports, prompts)
    units = [(place, int(number)) for place, numbers in enumerate(active) for number in numbers]
    if not units:
        raise DictionaryError(
            f"no latent of {', '.join(one.dictionary.name for one in model.latents)} is above 0 on the task "
            f"{prompts.task.name!r}, so that there is no feature to measure. Give a dictionary that was trained on "
            "this model."
        )
    return replace(everything.narrowed(layout_of(ports, FEATURE).only(units)), dictionaries=facts)


def read_like(model: Model, prompts: Prompts, layout: Layout, reading: Reading, basis: StreamBasis | None) -> Model:
    """A candidate that is read as a reference was, in the reference's basis.

    Args:
        model: the candidate, with the reference's dictionaries.
        prompts: on which it is told how much they explain.
        layout: of the reference's features.
        reading: how those are read in logits.
        basis: of the reference's stream.

    Raises:
        CandidateError: its stream is kept in another basis, and no map to the reference's can be proven.
    """
    with unchanged(model):
        found = _in_basis(model.narrowed(layout), reading, basis)
        facts, _ = fit(found, _with_all(found).ports(FEATURE), prompts)
    return replace(found, dictionaries=facts)


def stream_basis(model: TorchModel) -> StreamBasis | None:
    """Rows of the token embedding; None where there is no plain one."""
    path = model.structure.embedding
    rows = getattr(model.module.get_submodule(path), "num_embeddings", None) if path else None
    if rows is None:
        return None
    (width,) = _embedded(model, (0,)).shape[1:]
    wanted = min(rows, int(MORE_TOKENS * width) + 1)
    chosen = np.sort(np.random.default_rng(0).choice(rows, wanted, replace=False))
    tokens = tuple(int(token) for token in chosen)
    return StreamBasis(tokens, _embedded(model, tokens))


def difference(reference: Reading, candidate: Reading) -> float:
    """How far what units of the same values write differs, read in logits, relative, over all groups."""
    pairs = list(zip(reference.maps, candidate.maps, strict=True))
    off = sum(float(np.square(ours - theirs, dtype=np.float64).sum()) for ours, theirs in pairs)
    size = sum(float(np.square(ours, dtype=np.float64).sum()) for ours, _ in pairs)
    return (off / size) ** 0.5 if size else 0.0


def rotation(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> tuple[NDArray[np.float32], bool]:
    """The orthogonal matrix Q that takes the one embedding nearest to the other, `reference @ Q`.

    Orthogonal Procrustes (Schonemann 1966, doi 10.1007/BF02289451). Whatever rotates the stream of a model with
    LayerNorms takes the mean out of its embedding first, so that without it is tried, too, and the nearer one is taken.

    Args:
        reference: rows `[tokens, d_model]`.
        candidate: rows of the same tokens.

    Returns:
        The matrix, and whether the mean was taken out first.
    """
    ours, theirs = reference.astype(np.float64), candidate.astype(np.float64)
    whole, centred = (_nearest(rows, theirs) for rows in (ours, ours - ours.mean(1, keepdims=True)))
    is_centred = centred[1] < whole[1]
    return np.asarray((centred if is_centred else whole)[0], np.float32), is_centred


def _nearest(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """The orthogonal matrix, and how far it is off."""
    left, _, right = np.linalg.svd(ours.T @ theirs)
    turn = left @ right
    return turn, float(np.linalg.norm(ours @ turn - theirs))


def _in_basis(model: Model, reading: Reading, basis: StreamBasis | None) -> Model:
    off = difference(reading, _reading(model, reading.tokens))
    if off <= SAME:
        return model
    # Heads' values are not kept in the basis of the stream.
    in_stream = all(one.dictionary.writes.place != "z" for one in model.latents)
    if basis is not None and in_stream and model.structure.embedding is not None:
        matrix, is_centred = rotation(basis.rows, _embedded(model, basis.tokens))
        turn = torch.from_numpy(matrix).to(model.device)
        turned = replace(model, latents=tuple(replace(one, turn=turn) for one in model.latents))
        # Proven by what the embedding did not tell: the final norm and the unembedding.
        if difference(reading, _reading(turned, reading.tokens)) <= SAME:
            return replace(turned, notes=(*model.notes, ROTATED, *(_without_mean(model) if is_centred else ())))
    raise CandidateError(
        f"candidate {model.name} keeps what its dictionaries read in another basis: what features write, read in "
        f"logits, differs by {off:.2g} of its size from the reference's, and no rotation between their token "
        "embeddings mends that, so that its features cannot be told. Gate its heads, which are read in any basis, or "
        "give a release that is not rotated."
    )


def _without_mean(model: TorchModel) -> list[str]:
    """What is said of dictionaries that know the mean of a stream that has none any more; nothing where none does."""
    names = [one.dictionary.name for one in model.latents if not one.dictionary.centred]
    return [MEANLESS.format(names=listed(names, 4), verb="was" if len(names) == 1 else "were")] if names else []


def _reading(model: TorchModel, tokens: Sequence[int]) -> Reading:
    ports = model.ports(FEATURE)
    return reading_of(model, ports, tokens, [1.0] * len(ports))


def _with_all(model: Model) -> Model:
    """All of whose features are seen."""
    return replace(model, chosen=tuple(layout for layout in model.chosen if layout.kind != FEATURE))


def _embedded(model: TorchModel, tokens: Sequence[int]) -> NDArray[np.float32]:
    """What the token embedding gives for some tokens, float32 `[tokens, width]`."""
    assert model.structure.embedding is not None
    with torch.no_grad():
        ids = torch.tensor([list(tokens)], device=model.device)
        found = model.module.get_submodule(model.structure.embedding)(ids)[0]
    return np.asarray(found.float().cpu().numpy(), np.float32)
