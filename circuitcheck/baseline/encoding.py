"""Golden baselines as bytes: a JSON for reviewers, and safetensors for what a candidate is compared with.

Both are canonical: the same baseline gives the same bytes, and any other bytes are refused. The JSON carries a checksum
of itself and the SHA-256 of the arrays.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from circuitcheck.baseline.recording import Recording
from circuitcheck.baseline.reviewer_summary import summary
from circuitcheck.baseline.rounded import Rounded
from circuitcheck.core.activations import Activations
from circuitcheck.core.errors import BaselineError, CircuitcheckError, StaleBaselineError
from circuitcheck.core.next_token import NextToken
from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.core.reading import Reading
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.core.units import Group, Layout

SCHEMA = 5
Arrays = dict[str, NDArray[Any]]


def encode(baseline: Recording) -> tuple[bytes, bytes]:
    """The JSON file's and the safetensors file's content."""
    # One metadata key: with several, the writer's order is not fixed.
    arrays = safetensors.numpy.save(_arrays(baseline), metadata={"circuitcheck": json.dumps({"schema": SCHEMA})})
    content = {
        "schema": SCHEMA,
        "model": {"name": baseline.model, **baseline.architecture},
        "task": {"name": baseline.task.name, "clusters": baseline.task.clusters},
        "layout": {"kind": baseline.layout.kind, "groups": [asdict(group) for group in baseline.layout.groups]},
        "reading": {"source": baseline.reading.source, "tokens": len(baseline.reading.tokens)},
        "spec": baseline.spec.to_json(),
        "fingerprints": baseline.all_fingerprints,
        "ablations": list(baseline.ablated),
        "noise": baseline.noise,
        "roundings": [
            {"precision": one.precision, "name": one.name, "measures": one.measures} for one in baseline.roundings
        ],
        "ceiling": baseline.ceiling,
        "environment": baseline.environment,
        "reason": baseline.reason,
        "notes": list(baseline.notes),
        "arrays": {"sha256": hashlib.sha256(arrays).hexdigest()},
        "summary": summary(baseline),
    }
    # The spec stays as it is: a rounded one would be another spec than the one that was fingerprinted.
    content = {**_rounded(content), "spec": baseline.spec.to_json()}
    return _canonical({**content, "checksum": _checksum(content)}), arrays


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
    content = _checked_content(json_bytes, name)
    if hashlib.sha256(arrays).hexdigest() != content["arrays"]["sha256"]:
        raise BaselineError(
            f"golden baseline {name}: the safetensors file beside it is corrupt, or belongs to another recording. "
            "Restore both files from version control, or accept the baseline anew."
        )
    try:
        return _fields(content, safetensors.numpy.load(arrays))
    except (KeyError, ValueError, TypeError, SafetensorError, CircuitcheckError) as error:
        raise BaselineError(f"golden baseline {name} cannot be read: {type(error).__name__}: {error}") from error


def _checked_content(json_bytes: bytes, name: str) -> dict[str, Any]:
    try:
        content = json.loads(json_bytes)
        schema = content["schema"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BaselineError(
            f"golden baseline {name} is truncated or corrupt. Restore it from version control, or accept it anew."
        ) from error
    if isinstance(schema, int) and schema != SCHEMA:
        raise StaleBaselineError(
            f"golden baseline {name} has schema {schema}, and this version of circuitcheck writes schema {SCHEMA}. "
            "Record it anew: pytest --circuit-accept=changed --circuit-reason 'new schema'."
        )
    body = {key: value for key, value in content.items() if key != "checksum"}
    if not _is_intact(content, body, json_bytes):
        raise BaselineError(
            f"golden baseline {name} was changed after it was recorded: by hand, by a merge, or by a line-ending "
            "conversion (mark the folder '-text' in .gitattributes). Restore it from version control, or accept it "
            "anew."
        )
    return body


def _is_intact(content: dict[str, Any], body: dict[str, Any], json_bytes: bytes) -> bool:
    try:
        return bool(content.get("checksum") == _checksum(body) and _canonical(content) == json_bytes)
    except ValueError:  # NaN, infinity or half a surrogate pair: this module never writes them
        return False


def _arrays(baseline: Recording) -> Arrays:
    pairs = baseline.task.pairs
    arrays: Arrays = {
        "prompts.lengths": np.array([len(pair.clean) for pair in pairs], np.int32),
        "prompts.clean": np.array([token for pair in pairs for token in pair.clean], np.int32),
        "prompts.counterfactual": np.array([token for pair in pairs for token in pair.counterfactual], np.int32),
        "prompts.answer": np.array([pair.answer for pair in pairs], np.int32),
        "prompts.foil": np.array([pair.foil for pair in pairs], np.int32),
        "measured": np.array(baseline.measured, np.int32).reshape(-1, 2),
        "metric.clean": baseline.metric,
        "metric.counterfactual": baseline.counterfactual,
        "solved": np.array(baseline.solved, np.int32),
        "part.index": np.array(baseline.z.index, np.int32),
        "part.lengths": np.array(baseline.z.lengths, np.int32),
    }
    arrays |= {f"metric.{kind}": values for kind, values in baseline.ablated.items()}
    arrays |= {"reading.tokens": np.array(baseline.reading.tokens, np.int32)}
    # All blocks of a model are read by one map, which is kept once.
    arrays |= {f"reading.map.{place:04d}": read for place, read in enumerate(_distinct(baseline.reading.maps))}
    arrays |= {f"rounding.{place:04d}": one.moves for place, one in enumerate(baseline.roundings)}
    if baseline.next_token is not None:
        arrays |= {f"next_token.{field.name}": getattr(baseline.next_token, field.name) for field in fields(NextToken)}
    for name, values in (("z", baseline.z), ("gradient", baseline.gradient)):
        arrays |= {f"{name}.{place:04d}": group for place, group in enumerate(values.groups)}
    return {name: np.ascontiguousarray(values) for name, values in sorted(arrays.items())}


def _fields(content: dict[str, Any], arrays: Arrays) -> dict[str, Any]:
    model = dict(content["model"])
    name = model.pop("name")
    index, lengths = (tuple(int(value) for value in arrays[f"part.{key}"]) for key in ("index", "lengths"))

    def activations(name: str) -> Activations:
        keys = sorted(key for key in arrays if key.startswith(f"{name}."))
        return Activations(index, lengths, tuple(arrays[key] for key in keys))

    return {
        "model": name,
        "architecture": model,
        "task": _task(content["task"], arrays),
        "spec": MeasurementSpec(**content["spec"]),
        "fingerprints": {key: content["fingerprints"][key] for key in ("weights", "tokenizer")},
        "layout": Layout(content["layout"]["kind"], tuple(Group(**group) for group in content["layout"]["groups"])),
        "measured": tuple((int(place), int(unit)) for place, unit in arrays["measured"]),
        "metric": arrays["metric.clean"],
        "counterfactual": arrays["metric.counterfactual"],
        "solved": tuple(int(place) for place in arrays["solved"]),
        "ablated": {kind: arrays[f"metric.{kind}"] for kind in content["ablations"]},
        "z": activations("z"),
        "gradient": activations("gradient"),
        "reading": _reading(content, arrays),
        "ceiling": content["ceiling"],
        "noise": content["noise"],
        "next_token": _next_token(arrays),
        "roundings": tuple(
            Rounded(**one, moves=arrays[f"rounding.{place:04d}"]) for place, one in enumerate(content["roundings"])
        ),
        "environment": content["environment"],
        "reason": content["reason"],
        "notes": tuple(content["notes"]),
    }


def _distinct(maps: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """The maps, or the one that all groups share."""
    return [maps[0]] if all(read is maps[0] for read in maps) else list(maps)


def _next_token(arrays: Arrays) -> NextToken | None:
    if not any(key.startswith("next_token.") for key in arrays):
        return None
    return NextToken(**{field.name: arrays[f"next_token.{field.name}"] for field in fields(NextToken)})


def _reading(content: dict[str, Any], arrays: Arrays) -> Reading:
    maps = tuple(arrays[key] for key in sorted(arrays) if key.startswith("reading.map."))
    groups = len(content["layout"]["groups"])
    tokens = tuple(int(token) for token in arrays["reading.tokens"])
    return Reading(content["reading"]["source"], tokens, maps * groups if len(maps) == 1 else maps)


def _task(content: dict[str, Any], arrays: Arrays) -> Task:
    ends = np.cumsum(arrays["prompts.lengths"])[:-1]
    clean = np.split(arrays["prompts.clean"], ends)
    counterfactual = np.split(arrays["prompts.counterfactual"], ends)
    columns = zip(
        clean, counterfactual, arrays["prompts.answer"], arrays["prompts.foil"], content["clusters"], strict=True
    )
    pairs = tuple(
        PromptPair(tuple(map(int, before)), tuple(map(int, after)), int(answer), int(foil), cluster)
        for before, after, answer, foil, cluster in columns
    )
    return Task(content["name"], pairs)


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
    return (json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(content)).hexdigest()
