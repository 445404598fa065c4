"""Where the dictionaries of a model stand in it: their hook points as ports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from circuitcheck.core.errors import DictionaryError, SiteError
from circuitcheck.core.units import Group
from circuitcheck.dictionaries.dictionary import Dictionary, HookPoint, Place
from circuitcheck.runtimes.pytorch.ports.latents import Latents
from circuitcheck.runtimes.pytorch.ports.ports import Port, Side
from circuitcheck.runtimes.pytorch.ports.structure import LayerSite, Structure, output_width

NAMES: dict[Place, str] = {
    "resid_post": "feature",
    "resid_pre": "feature before",
    "attn_out": "feature attention",
    "mlp_in": "feature mlp-in",
    "mlp_out": "feature mlp",
    "z": "feature z",
}
"""What labels of features begin with, before the number of the layer, by where they write."""


def name_of(dictionary: Dictionary) -> str:
    """What the group of a dictionary's features is called."""
    return f"{NAMES[dictionary.writes.place]} {dictionary.writes.layer}"


def require_fit(module: nn.Module, structure: Structure, dictionaries: Sequence[Dictionary]) -> None:
    """Refuses dictionaries of another width or of a place that the model does not have, all at once.

    Raises:
        DictionaryError: names every one.
    """
    faults = [fault for dictionary in dictionaries for fault in _faults(module, structure, dictionary)]
    if faults:
        raise DictionaryError(
            f"{type(module).__name__} cannot be read by these dictionaries:\n  "
            + "\n  ".join(faults)
            + "\nGive dictionaries that were trained on this model."
        )


def feature_ports(module: nn.Module, structure: Structure, latents: Sequence[Latents]) -> tuple[Port, ...]:
    """The ports of all features, in order of execution.

    Raises:
        SiteError: there is no dictionary to read features by.
    """
    if not latents:
        raise SiteError(
            f"{type(module).__name__}: features are read by dictionaries, and none was given: --circuit-unit "
            "feature:PATH, or model.with_dictionaries(...)."
        )
    return tuple(_port(structure, one) for one in latents)


def _port(structure: Structure, latents: Latents) -> Port:
    """Where the latents of a dictionary that fits are read and written."""
    dictionary = latents.dictionary
    reads, writes = dictionary.reads, dictionary.writes
    path, side, runs_in = _stands(structure, writes)
    group = Group(name_of(dictionary), writes.layer, dictionary.latents, 1)
    source = _stands(structure, reads)[:2] if dictionary.is_transcoder else None
    return Port(group, path, side, latents, source, runs_in)


def _faults(module: nn.Module, structure: Structure, dictionary: Dictionary) -> Iterator[str]:
    ends = [(dictionary.reads, "reads", len(dictionary.encoder))]
    ends += [(dictionary.writes, "writes", dictionary.decoder.shape[1])]
    for point, verb, width in ends if dictionary.is_transcoder else ends[:1]:
        if point.layer >= len(structure.layers):
            yield f"{dictionary.name} stands at {point}, and the model has {len(structure.layers)} layers"
            continue
        site = structure.layers[point.layer]
        if point.place in ("mlp_in", "mlp_out") and site.mlp is None:
            yield f"{dictionary.name} stands at {point}, and the MLP of {site.path} was not found"
            continue
        expected = _width(module, site, point.place)
        if expected is None:
            yield f"{dictionary.name} stands at {point}, and how many numbers pass there was not found"
        elif width != expected:
            yield f"{dictionary.name} {verb} {width} numbers at {point}, and the model has {expected} there"
    if dictionary.is_transcoder and not _runs_before(dictionary.reads, dictionary.writes):
        yield f"{dictionary.name} reads at {dictionary.reads}, which does not run before {dictionary.writes}"


def _runs_before(reads: HookPoint, writes: HookPoint) -> bool:
    """Whether both run in one call of a layer, in this order, so that they see the same rows."""
    order: tuple[Place, ...] = ("mlp_in", "mlp_out")
    return reads.layer == writes.layer and (reads.place, writes.place) == order


def _width(module: nn.Module, site: LayerSite, place: Place) -> int | None:
    return site.n_heads * site.d_head if place == "z" else output_width(module.get_submodule(site.projection))


def _stands(structure: Structure, point: HookPoint) -> tuple[str, Side, int]:
    """Module, side, and the layer in whose call it runs."""
    site = structure.layers[point.layer]
    if point.place == "resid_pre":
        # What a layer is given is what the one before it gave; so all that follows can be replayed.
        before = point.layer - 1
        return (structure.layers[before].path, "output", before) if point.layer else (site.path, "input", -1)
    mlp = site.mlp or ""
    stands: dict[Place, tuple[str, Side]] = {
        "resid_post": (site.path, "output"),
        "attn_out": (site.attention_output or site.projection, "output"),
        "mlp_in": (mlp, "input"),
        "mlp_out": (site.mlp_output or mlp, "output"),
        "z": (site.projection, "input"),
    }
    return (*stands[point.place], point.layer)
