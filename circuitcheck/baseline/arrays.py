"""The arrays of a golden baseline: what each is called, of which type and shape, and how they become bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from circuitcheck.baseline.more_arrays import (
    Shape,
    beside_arrays,
    beside_shapes,
    feature_arrays,
    feature_shapes,
    population_arrays,
    population_shapes,
    route_arrays,
    route_shapes,
)
from circuitcheck.baseline.recording import Recording
from circuitcheck.baseline.rounded import MEASURES
from circuitcheck.core.phrases import listed
from circuitcheck.core.units import Layout

Arrays = dict[str, NDArray[Any]]
NEXT_TOKEN = ("next_token.tokens", "next_token.log_probabilities", "next_token.likeliest")

UNDEFINED = -1.0
"""A measure of a rounding that has no value; none is negative."""

INTEGER, FLOAT = np.dtype("<i4"), np.dtype("<f4")
TYPES = {"I32": INTEGER, "F32": FLOAT}


def shapes_of(
    layout: Layout,
    ablations: Sequence[str],
    maps: int,
    has_next_token: bool,
    has_roundings: bool,
    population: Layout | None = None,
    beside: tuple[Layout, int] | None = None,
    basis: int | None = None,
    routers: int = 0,
) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """Every array that a baseline of such units has, and its shape: integers from 0 up, and finite floats.

    Args:
        layout: of the units.
        ablations: kinds of ablation that were measured.
        maps: how many maps read the units: one for each group, or one that all share.
        has_next_token: whether it says what comes next.
        has_roundings: whether the reference was rounded.
        population: of all units, where the layout has some of them.
        beside: of units of another kind, and how many maps read them.
        basis: of features the dimensions of the embedding whose rows are kept, 0 for none; None of other kinds of unit.
        routers: of how many the choice is kept.
    """
    integers: dict[str, Shape] = {
        "prompts.lengths": ("prompts",),
        "prompts.clean": ("tokens",),
        "prompts.counterfactual": ("tokens",),
        "prompts.answer": ("prompts",),
        "prompts.foil": ("prompts",),
        "measured": ("measured", 2),
        "solved": ("solved",),
        "part.index": ("part",),
        "part.lengths": ("part",),
        "reading.tokens": ("read",),
    }
    floats: dict[str, Shape] = {"metric.clean": ("prompts",), "metric.counterfactual": ("prompts",)}
    of_prompts = "solved" if population is None else "ablated on"
    floats |= {f"metric.{kind}": ("measured", of_prompts) for kind in ablations}
    for place, group in enumerate(layout.groups):
        floats |= {f"{name}.{place:04d}": ("kept", group.count, group.width) for name in ("z", "gradient")}
    if has_next_token:
        tokens, log_probabilities, likeliest = NEXT_TOKEN
        integers |= {tokens: ("solved", "said"), likeliest: ("solved",)}
        floats[log_probabilities] = ("solved", "said")
    if has_roundings:
        floats |= {
            "roundings.measures": ("roundings", len(MEASURES)),
            "roundings.squares": ("roundings", len(layout.units), "part"),
        }
    for place, group in enumerate(layout.groups[:maps]):
        floats[f"reading.map.{place:04d}"] = (group.count, "read", group.width)
    for more in (
        None if population is None else population_shapes(population),
        None if beside is None else beside_shapes(*beside),
        None if basis is None else feature_shapes(basis, has_roundings),
    ):
        if more is not None:
            integers, floats = integers | more[0], floats | more[1]
    if has_roundings and population is not None:
        floats["roundings.layers"] = ("roundings", len({group.layer for group in population.groups}), "part")
    return integers | route_shapes(routers), floats


def arrays_of(baseline: Recording) -> Arrays:
    """What a recording holds beside its JSON."""
    pairs = baseline.task.pairs
    integers: dict[str, Any] = {
        "prompts.lengths": [len(pair.clean) for pair in pairs],
        "prompts.clean": [token for pair in pairs for token in pair.clean],
        "prompts.counterfactual": [token for pair in pairs for token in pair.counterfactual],
        "prompts.answer": [pair.answer for pair in pairs],
        "prompts.foil": [pair.foil for pair in pairs],
        "measured": np.array(baseline.measured, INTEGER).reshape(-1, 2),
        "solved": baseline.solved,
        "part.index": baseline.z.index,
        "part.lengths": baseline.z.lengths,
        "reading.tokens": baseline.reading.tokens,
    }
    floats: dict[str, Any] = {"metric.clean": baseline.metric, "metric.counterfactual": baseline.counterfactual}
    floats |= {f"metric.{kind}": values for kind, values in baseline.ablated.items()}
    for name, values in (("z", baseline.z), ("gradient", baseline.gradient)):
        floats |= {f"{name}.{place:04d}": group for place, group in enumerate(values.groups)}
    floats |= {f"reading.map.{place:04d}": read for place, read in enumerate(baseline.reading.distinct_maps)}
    said = baseline.next_token
    if said is not None:
        integers |= {NEXT_TOKEN[0]: said.tokens, NEXT_TOKEN[2]: said.likeliest}
        floats[NEXT_TOKEN[1]] = said.log_probabilities
    if baseline.roundings:
        floats["roundings.measures"] = [
            [one.measures.get(name, UNDEFINED) for name in MEASURES] for one in baseline.roundings
        ]
        floats["roundings.squares"] = [one.squares for one in baseline.roundings]
        if baseline.population is not None:
            floats["roundings.layers"] = [one.layers for one in baseline.roundings]
    for more in (
        None if baseline.population is None else population_arrays(baseline.population),
        None if baseline.beside is None else beside_arrays(baseline.beside),
        None if baseline.features is None else feature_arrays(baseline.features),
    ):
        if more is not None:
            integers, floats = integers | more[0], floats | more[1]
    integers |= route_arrays(baseline.routes)
    return {name: np.ascontiguousarray(values, INTEGER) for name, values in integers.items()} | {
        name: np.ascontiguousarray(values, FLOAT) for name, values in floats.items()
    }


def packed(arrays: Arrays) -> bytes:
    """As a safetensors file; same arrays, same bytes."""
    return bytes(safetensors.numpy.save(dict(sorted(arrays.items()))))


def unpacked(content: bytes, integers: Mapping[str, Shape], floats: Mapping[str, Shape]) -> Arrays:
    """The arrays of a safetensors file, which are those that are expected, or an error.

    Args:
        content: the file.
        integers: name to shape of the integers.
        floats: name to shape of the floats.

    Raises:
        ValueError: other arrays, another type or shape, a negative integer, or a float that is not finite.
        SafetensorError: no safetensors file.
    """
    found: dict[str, Any] = dict(safetensors.deserialize(content))  # type: ignore[no-untyped-call]
    different = sorted(found.keys() ^ {*integers, *floats})
    if different:
        raise ValueError(f"arrays that are missing, or that nobody knows: {listed(different, 3)}")
    sizes: dict[str, int] = {}
    return {
        name: _checked(name, found[name], shape, INTEGER if name in integers else FLOAT, sizes)
        for name, shape in {**integers, **floats}.items()
    }


def _checked(name: str, tensor: Any, shape: Shape, dtype: np.dtype[Any], sizes: dict[str, int]) -> NDArray[Any]:
    if TYPES.get(tensor["dtype"]) != dtype or len(tensor["shape"]) != len(shape):
        raise ValueError(f"array {name} has another type or shape: {tensor['dtype']} {tensor['shape']}")
    for size, wanted in zip(tensor["shape"], shape, strict=True):
        expected = sizes.setdefault(wanted, size) if isinstance(wanted, str) else wanted
        if size != expected:
            raise ValueError(f"array {name} has the shape {tensor['shape']}, where {wanted} must be {expected}")
    array = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
    if not (np.isfinite(array).all() if dtype == FLOAT else (array >= 0).all()):
        raise ValueError(f"array {name} has values that are {'not finite' if dtype == FLOAT else 'negative'}")
    return array
