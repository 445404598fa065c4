"""Golden baselines as bytes: a JSON for reviewers, and safetensors for what a candidate is compared with.

Both are canonical: the same baseline gives the same bytes. The JSON names the arrays by their SHA-256 and carries a
checksum of itself; both only find accidents. What is read is validated as if a stranger had written it, and what
the JSON says of the arrays is computed from them again, and compared.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import msgspec
import numpy as np
from safetensors import SafetensorError

from circuitcheck.baseline.arrays import (
    NEXT_TOKEN,
    UNDEFINED,
    Arrays,
    arrays_of,
    packed,
    shapes_of,
    unpacked,
)
from circuitcheck.baseline.beside import Beside
from circuitcheck.baseline.consistency import require_consistent
from circuitcheck.baseline.feature_record import FeatureRecord
from circuitcheck.baseline.kept_population import Population
from circuitcheck.baseline.more_arrays import read_beside, read_features, read_population
from circuitcheck.baseline.recording import Recording
from circuitcheck.baseline.reviewer_summary import summary
from circuitcheck.baseline.rounded import MEASURES, Rounded
from circuitcheck.baseline.schema import MOST_POPULATION, MOST_UNITS, SCHEMA, Document, GroupForm, ReadingForm
from circuitcheck.core.activations import Activations
from circuitcheck.core.errors import BaselineError, CircuitcheckError, StaleBaselineError
from circuitcheck.core.features import DictionaryFacts
from circuitcheck.core.next_token import NextToken
from circuitcheck.core.phrases import first_lines
from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.core.reading import Reading
from circuitcheck.core.routes import Routes
from circuitcheck.core.units import Group, Layout

DIGITS = 16
"""Of the SHA-256 of each array, and of that in the name of an array file."""

LAST_DIGITS, NOTHING = 1.01, 1e-9
"""By so many units of the sixth digit, or so much of the largest, numbers that a reviewer reads may differ: another
machine sums in another order, and a last digit, or what is left where everything cancels, may turn out differently."""


def encode(baseline: Recording) -> tuple[bytes, bytes]:
    """The JSON file's and the safetensors file's content.

    Raises:
        BaselineError: a text of it cannot be written as UTF-8.
    """
    arrays = arrays_of(baseline)
    content = content_of(baseline, arrays, file := packed(arrays))
    try:
        return _canonical({**content, "checksum": _checksum(content)}), file
    except (UnicodeEncodeError, ValueError) as error:
        raise BaselineError(
            f"the golden baseline of {baseline.task.name!r} cannot be written: {first_lines(error)}"
        ) from error


def content_of(baseline: Recording, arrays: Arrays, file: bytes) -> dict[str, Any]:
    """The JSON, but for its checksum; `file` is what the arrays are packed in."""
    content = {
        "schema": SCHEMA,
        "model": {"name": baseline.model, "architecture": baseline.architecture},
        "task": {"name": baseline.task.name, "clusters": baseline.task.clusters},
        "layout": _layout(baseline.layout),
        "reading": _reading(baseline.reading),
        "population": _population(baseline.population),
        "beside": _beside(baseline.beside),
        **_features(baseline.features),
        **_routes(baseline.routes),
        "fingerprints": baseline.all_fingerprints,
        "ablations": list(baseline.ablated),
        "noise": baseline.noise,
        "next_token": baseline.next_token is not None,
        "roundings": [{"precision": one.precision, "name": one.name} for one in baseline.roundings],
        "ceiling": baseline.ceiling,
        "environment": baseline.environment,
        "reason": baseline.reason,
        "notes": list(baseline.notes),
        "arrays": {
            "sha256": hashlib.sha256(file).hexdigest(),
            "bytes": len(file),
            "each": {name: hashlib.sha256(array.tobytes()).hexdigest()[:DIGITS] for name, array in arrays.items()},
        },
        "summary": summary(baseline),
    }
    # The spec stays as it is: a rounded one would be another spec than the one that was fingerprinted.
    return {**_rounded(content), "spec": baseline.spec.to_json()}


def parse(json_bytes: bytes, name: str) -> Document:
    """The JSON file, valid in itself.

    Args:
        json_bytes: its content.
        name: what messages call it.

    Raises:
        BaselineError: corrupt, truncated, edited by hand, or no baseline.
        StaleBaselineError: written under another schema.
    """
    schema = _schema(json_bytes, name)
    if schema != SCHEMA:
        raise StaleBaselineError(
            f"golden baseline {name} has schema {schema}, and this version of circuitcheck writes schema {SCHEMA}. "
            "Record it anew: pytest --circuit-accept=changed --circuit-reason 'new schema'."
        )
    if not _is_intact(json_bytes):
        raise BaselineError(
            f"golden baseline {name} was changed after it was recorded: by hand, by a merge, or by a line-ending "
            "conversion (mark the folder '-text' in .gitattributes). Restore it from version control, or accept it "
            "anew."
        )
    try:
        document = msgspec.json.decode(json_bytes, type=Document)
    except (ValueError, RecursionError, CircuitcheckError) as error:  # msgspec's errors are values'
        raise _unreadable(name, error) from error
    others = [] if document.population is None else document.population.groups
    others += [] if document.beside is None else document.beside.layout.groups
    for groups, most in ((document.layout.groups, MOST_UNITS), (others, MOST_POPULATION)):
        if sum(group.count for group in groups) > most:
            raise _unreadable(name, ValueError(f"it has more than {most} units"))
    return document


def decode(json_bytes: bytes, arrays: bytes, name: str) -> dict[str, Any]:
    """The fields of the recording that two files hold.

    Args:
        json_bytes: the JSON file.
        arrays: the safetensors file.
        name: what messages call it.

    Raises:
        BaselineError: corrupt, truncated or edited by hand.
        StaleBaselineError: written under another schema.
    """
    document = parse(json_bytes, name)
    if hashlib.sha256(arrays).hexdigest() != document.arrays.sha256:
        raise other_arrays(name)
    try:
        fields = recording_of(document, arrays)
        recording = Recording(**fields)
        require_consistent(recording)
        _require_same(json.loads(json_bytes), recording, arrays)
    except (ValueError, SafetensorError, CircuitcheckError) as error:
        raise _unreadable(name, error) from error
    return fields


def other_arrays(name: str) -> BaselineError:
    """What is said of arrays that are not those that the JSON names."""
    return BaselineError(
        f"golden baseline {name}: the safetensors file beside it is corrupt, or belongs to another recording. Restore "
        "both files from version control, or accept the baseline anew."
    )


def recording_of(document: Document, content: bytes) -> dict[str, Any]:
    """The fields of the recording that a JSON and its arrays hold; types and ranges are checked."""
    layout = _read_layout(document.layout.kind, document.layout.groups)
    _require_maps(document.reading, layout)
    population = None if document.population is None else _read_layout(document.layout.kind, document.population.groups)
    beside = more = None
    if document.beside is not None:
        beside = _read_layout(document.beside.layout.kind, document.beside.layout.groups)
        _require_maps(document.beside.reading, beside)
        more = beside, document.beside.reading.maps
    has = (document.next_token, bool(document.roundings))
    basis = None if document.features is None else document.features.basis
    routers = document.routes or []
    shapes = shapes_of(layout, document.ablations, document.reading.maps, *has, population, more, basis, len(routers))
    arrays = unpacked(content, *shapes)
    index, lengths = _integers(arrays["part.index"]), _integers(arrays["part.lengths"])

    def groups(name: str, count: int = len(layout.groups)) -> tuple[Any, ...]:
        return tuple(arrays[f"{name}.{place:04d}"] for place in range(count))

    maps = groups("reading.map", document.reading.maps)
    return {
        "model": document.model.name,
        "architecture": document.model.architecture,
        "task": _task(document, arrays),
        "spec": document.spec,
        "fingerprints": {"weights": document.fingerprints.weights, "tokenizer": document.fingerprints.tokenizer},
        "layout": layout,
        "measured": tuple((int(place), int(unit)) for place, unit in arrays["measured"]),
        "metric": arrays["metric.clean"],
        "counterfactual": arrays["metric.counterfactual"],
        "solved": _integers(arrays["solved"]),
        "ablated": {kind: arrays[f"metric.{kind}"] for kind in document.ablations},
        "z": Activations(index, lengths, groups("z")),
        "gradient": Activations(index, lengths, groups("gradient")),
        "reading": Reading(
            document.reading.source,
            _integers(arrays["reading.tokens"]),
            maps * (len(layout.groups) if len(maps) == 1 else 1),
        ),
        "ceiling": document.ceiling,
        "noise": document.noise,
        "next_token": NextToken(*(arrays[name] for name in NEXT_TOKEN)) if document.next_token else None,
        "roundings": _roundings(document, arrays),
        "population": None
        if document.population is None or population is None
        else read_population(population, document.reading.source, index, arrays),
        "beside": None
        if document.beside is None or beside is None
        else read_beside(beside, document.beside.reading.maps, document.beside.reading.source, index, arrays),
        "features": None
        if document.features is None
        else read_features(
            tuple(DictionaryFacts(**_plain(one)) for one in document.features.dictionaries),
            population or layout,
            arrays,
        ),
        "routes": tuple(
            Routes(one.layer, one.experts, arrays[f"routes.{place:04d}"]) for place, one in enumerate(routers)
        ),
        "environment": _plain(document.environment),
        "reason": document.reason,
        "notes": tuple(document.notes),
    }


def _layout(layout: Layout) -> dict[str, Any]:
    return {"kind": layout.kind, "groups": [_group(group) for group in layout.groups]}


def _read_layout(kind: str, groups: Sequence[GroupForm]) -> Layout:
    return Layout(kind, tuple(map(_read_group, groups)))


def _reading(reading: Reading) -> dict[str, Any]:
    return {"source": reading.source, "tokens": len(reading.tokens), "maps": len(reading.distinct_maps)}


def _require_maps(reading: ReadingForm, layout: Layout) -> None:
    alike = len({(group.count, group.width) for group in layout.groups}) == 1
    if reading.maps != len(layout.groups) and not (reading.maps == 1 and alike):
        raise ValueError("reading.maps is neither the number of groups nor one that all can share")


def _population(population: Population | None) -> dict[str, Any] | None:
    if population is None:
        return None
    return {"groups": [_group(group) for group in population.layout.groups]}


def _beside(beside: Beside | None) -> dict[str, Any] | None:
    return None if beside is None else {"layout": _layout(beside.layout), "reading": _reading(beside.reading)}


def _features(features: FeatureRecord | None) -> dict[str, Any]:
    """What the JSON says of features, under their key; nothing of other kinds of unit."""
    if features is None:
        return {}
    dimensions = 0 if features.basis is None else features.basis.rows.shape[1]
    return {"features": {"dictionaries": [asdict(one) for one in features.dictionaries], "basis": dimensions}}


def _routes(routes: Sequence[Routes]) -> dict[str, Any]:
    """What the JSON says of routers, under their key; nothing where there are none."""
    return {"routes": [{"layer": one.layer, "experts": one.experts} for one in routes]} if routes else {}


def _group(group: Group) -> dict[str, Any]:
    """What the JSON says of a group; not which units they are of all, where they are all."""
    said = asdict(group)
    return said if group.of else {key: value for key, value in said.items() if key not in ("of", "numbers")}


def _read_group(form: GroupForm) -> Group:
    said = {"of": 0, "numbers": [], **_plain(form)}
    group = Group(**said | {"numbers": tuple(said["numbers"])})
    numbers = group.numbers
    if group.of and (len(numbers) != group.count or sorted({*numbers}) != [*numbers] or numbers[-1] >= group.of):
        raise ValueError(f"group {group.name} does not say which {group.count} of its {group.of} units it has")
    if numbers and not group.of:
        raise ValueError(f"group {group.name} numbers its units, and does not say of how many they are")
    return group


def _roundings(document: Document, arrays: Arrays) -> tuple[Rounded, ...]:
    if not document.roundings:
        return ()
    layers = arrays.get("roundings.layers", [None] * len(document.roundings))
    rows = zip(document.roundings, arrays["roundings.measures"], arrays["roundings.squares"], layers, strict=True)
    return tuple(
        Rounded(
            one.precision,
            one.name,
            {name: float(value) for name, value in zip(MEASURES, values, strict=True) if value != UNDEFINED},
            squares,
            of_layers,
        )
        for one, values, squares, of_layers in rows
    )


def _task(document: Document, arrays: Arrays) -> Task:
    lengths, clusters = arrays["prompts.lengths"], document.task.clusters
    if (
        len(clusters) != len(lengths)
        or not lengths.all()
        or lengths.sum(dtype=np.int64) != len(arrays["prompts.clean"])
    ):
        raise ValueError("lengths of prompts, their tokens and their clusters do not fit together")
    ends = np.cumsum(lengths, dtype=np.int64)[:-1]
    clean, counterfactual = (np.split(arrays[f"prompts.{side}"], ends) for side in ("clean", "counterfactual"))
    columns = zip(clean, counterfactual, arrays["prompts.answer"], arrays["prompts.foil"], clusters, strict=True)
    pairs = tuple(
        PromptPair(_integers(before), _integers(after), int(answer), int(foil), cluster)
        for before, after, answer, foil, cluster in columns
    )
    return Task(document.task.name, pairs)


def _require_same(content: dict[str, Any], recording: Recording, file: bytes) -> None:
    """What a reviewer reads is what the arrays give, and no byte of their file says anything else."""
    arrays = arrays_of(recording)
    if packed(arrays) != file:
        raise ValueError("the arrays are not in the form that they are written in")
    expected = content_of(recording, arrays, file)
    scale = max((abs(number) for number in _numbers(expected["summary"])), default=0.0)
    for key, value in expected.items():
        # Spelled, because to Python 7 is 7.0, and true is 1.
        if not (
            _is_near(content[key], value, scale) if key == "summary" else _spelled(content[key]) == _spelled(value)
        ):
            raise ValueError(f"what it says under {key!r} does not follow from its arrays")


def _is_near(one: Any, other: Any, scale: float) -> bool:
    """Whether two parts of a summary are the same, but for the last digit of numbers."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_is_near(one[key], other[key], scale) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_is_near, one, other, [scale] * len(one)))
    if isinstance(one, float):
        return bool(abs(one - other) <= LAST_DIGITS * _sixth_digit(max(abs(one), abs(other))) + NOTHING * scale)
    return bool(one == other)


def _sixth_digit(size: float) -> float:
    """What one unit of it is worth in a number of that size."""
    return float(10.0 ** (math.floor(math.log10(size)) - 5)) if size > 0 else 0.0


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict | list):
        return [number for item in (value.values() if isinstance(value, dict) else value) for number in _numbers(item)]
    return [value] if isinstance(value, float) else []


def _schema(json_bytes: bytes, name: str) -> int:
    class Versioned(msgspec.Struct):
        schema: int

    try:
        return msgspec.json.decode(json_bytes, type=Versioned).schema
    except (ValueError, RecursionError) as error:
        raise BaselineError(
            f"golden baseline {name} is truncated or corrupt. Restore it from version control, or accept it anew."
        ) from error


def _is_intact(json_bytes: bytes) -> bool:
    """Whether it is spelled as this module spells it, which no key that stands twice is, and has its own checksum."""
    try:
        content = json.loads(json_bytes)
        body = {key: value for key, value in content.items() if key != "checksum"}
        return bool(content.get("checksum") == _checksum(body) and _canonical(content) == json_bytes)
    except (ValueError, RecursionError):  # NaN, infinity or half a surrogate pair: this module never writes them
        return False


def _unreadable(name: str, error: BaseException) -> BaselineError:
    return BaselineError(f"golden baseline {name} cannot be read: {first_lines(error)}")


def _plain(form: msgspec.Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(form)
    return plain


def _integers(array: Any) -> tuple[int, ...]:
    return tuple(array.tolist())


def _rounded(value: Any) -> Any:
    """Six significant digits: what a reviewer can read, and what differs less between machines."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def _canonical(content: dict[str, Any]) -> bytes:
    return (_spelled(content) + "\n").encode()


def _spelled(value: Any) -> str:
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(content)).hexdigest()
