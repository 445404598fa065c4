"""The arrays of what a golden baseline keeps beside the measured units: of all of a kind, and of another kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.baseline.beside import Beside
from circuitcheck.baseline.feature_record import FeatureRecord
from circuitcheck.baseline.kept_population import Population
from circuitcheck.core.activations import Activations
from circuitcheck.core.features import DictionaryFacts, StreamBasis
from circuitcheck.core.reading import Reading, Source
from circuitcheck.core.routes import Routes
from circuitcheck.core.units import Layout

Arrays = Mapping[str, NDArray[Any]]
Shape = tuple[str | int, ...]
"""Sizes; those with a name are the same wherever the name stands."""


def population_shapes(layout: Layout) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """Integers and floats of a population; sizes with a name are those of the measured units' arrays."""
    floats: dict[str, Shape] = {
        "population.score": (len(layout.units),),
        "population.ablated": ("population sample", "part"),
    }
    for place, group in enumerate(layout.groups):
        floats[f"population.z.{place:04d}"] = ("part", group.count, group.width)
        floats[f"population.map.{place:04d}"] = (group.count, "population read", group.width)
    return {"population.tokens": ("population read",), "population.sample": ("population sample",)}, floats


def population_arrays(population: Population) -> tuple[dict[str, Any], dict[str, Any]]:
    """Their values."""
    floats: dict[str, Any] = {"population.score": population.score, "population.ablated": population.ablated}
    for name, groups in (("z", population.z.groups), ("map", population.reading.maps)):
        floats |= {f"population.{name}.{place:04d}": group for place, group in enumerate(groups)}
    return {"population.tokens": population.reading.tokens, "population.sample": population.sample}, floats


def read_population(layout: Layout, source: Source, index: tuple[int, ...], arrays: Arrays) -> Population:
    """A population from its arrays; `index` are the prompts that units are kept of."""
    places = range(len(layout.groups))
    return Population(
        layout,
        arrays["population.score"],
        Activations(index, (1,) * len(index), tuple(arrays[f"population.z.{place:04d}"] for place in places)),
        Reading(
            source,
            tuple(arrays["population.tokens"].tolist()),
            tuple(arrays[f"population.map.{place:04d}"] for place in places),
        ),
        tuple(arrays["population.sample"].tolist()),
        arrays["population.ablated"],
    )


def feature_shapes(dimensions: int, has_roundings: bool) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """Integers and floats of features, where rows of an embedding of so many dimensions are kept, or none."""
    integers: dict[str, Shape] = {"features.tokens": ("values",), "features.units": ("values",)}
    floats: dict[str, Shape] = {"features.values": ("values",)}
    if has_roundings:
        floats["features.surviving"] = ("roundings",)
    if dimensions:
        integers["features.basis.tokens"] = ("basis",)
        floats["features.basis.rows"] = ("basis", dimensions)
    return integers, floats


def feature_arrays(features: FeatureRecord) -> tuple[dict[str, Any], dict[str, Any]]:
    """Their values."""
    integers: dict[str, Any] = {"features.tokens": features.tokens, "features.units": features.units}
    floats: dict[str, Any] = {"features.values": features.values}
    if len(features.surviving):
        floats["features.surviving"] = features.surviving
    if features.basis is not None:
        integers["features.basis.tokens"] = features.basis.tokens
        floats["features.basis.rows"] = features.basis.rows
    return integers, floats


def read_features(dictionaries: tuple[DictionaryFacts, ...], layout: Layout, arrays: Arrays) -> FeatureRecord:
    """Features from their arrays."""
    basis = None
    if "features.basis.rows" in arrays:
        basis = StreamBasis(tuple(arrays["features.basis.tokens"].tolist()), arrays["features.basis.rows"])
    return FeatureRecord(
        dictionaries,
        layout,
        arrays["features.tokens"],
        arrays["features.units"],
        arrays["features.values"],
        basis,
        arrays.get("features.surviving", np.zeros(0, np.float32)),
    )


def beside_shapes(layout: Layout, maps: int) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """Integers and floats of units of another kind, of which so many maps are kept."""
    floats: dict[str, Shape] = {
        f"beside.z.{place:04d}": ("beside kept", group.count, group.width) for place, group in enumerate(layout.groups)
    }
    for place, group in enumerate(layout.groups[:maps]):
        floats[f"beside.map.{place:04d}"] = (group.count, "beside read", group.width)
    return {"beside.lengths": ("beside part",), "beside.tokens": ("beside read",)}, floats


def beside_arrays(beside: Beside) -> tuple[dict[str, Any], dict[str, Any]]:
    """Their values."""
    floats = {f"beside.z.{place:04d}": group for place, group in enumerate(beside.z.groups)}
    floats |= {f"beside.map.{place:04d}": read for place, read in enumerate(beside.reading.distinct_maps)}
    return {"beside.lengths": beside.z.lengths, "beside.tokens": beside.reading.tokens}, floats


def read_beside(layout: Layout, maps: int, source: Source, index: tuple[int, ...], arrays: Arrays) -> Beside:
    """Units of another kind from their arrays; `index` are the prompts that units are kept of."""
    lengths = tuple(int(length) for length in np.asarray(arrays["beside.lengths"]))
    found = tuple(arrays[f"beside.map.{place:04d}"] for place in range(maps))
    return Beside(
        layout,
        Activations(
            index[: len(lengths)],
            lengths,
            tuple(arrays[f"beside.z.{place:04d}"] for place in range(len(layout.groups))),
        ),
        Reading(
            source,
            tuple(arrays["beside.tokens"].tolist()),
            found * (len(layout.groups) if len(found) == 1 else 1),
        ),
    )


def route_shapes(count: int) -> dict[str, Shape]:
    """Integers of the choice of so many routers."""
    return {f"routes.{place:04d}": ("routed", f"chosen {place}") for place in range(count)}


def route_arrays(routes: Sequence[Routes]) -> dict[str, Any]:
    """Their values."""
    return {f"routes.{place:04d}": one.chosen for place, one in enumerate(routes)}
