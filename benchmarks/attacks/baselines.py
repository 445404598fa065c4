"""Golden baselines as strangers and accidents may leave them."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import forgery
import numpy as np
import safetensors.numpy
import tiny_circuits
import tiny_models
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from attacks.attempts import Attempt, Tally, attempts
from attacks.mutations import STRANGE, mutated_arrays, mutated_bytes, mutated_header, mutated_json, twice
from circuitcheck import Baseline, MeasurementSpec, measure, record_reference
from circuitcheck.baseline.baseline import save_all
from circuitcheck.baseline.diff import describe_change
from circuitcheck.baseline.encoding import encode
from circuitcheck.baseline.freshness import environment_notes

HASHES = ("sha256", "bytes")
NEAR = 1e-5
"""By which numbers of a JSON may differ from those that are computed from its arrays, relative to the largest."""

MEASURED = 20
"""One in so many baselines that are accepted is compared with a candidate."""


class Target:
    """A folder with two baselines of a tiny model, and what it takes to see what was done to one of them."""

    def __init__(self) -> None:
        self.model = tiny_models.tiny_model("gpt_neox")
        task = tiny_circuits.solvable_task(self.model, prompts=12)
        spec = MeasurementSpec(draws=100, minimum_clusters=2, part=4)
        roundings = self.model.roundings()[:1]
        self.folder, self.kept = Path(mkdtemp(prefix="attack-")), Path(mkdtemp(prefix="attack-"))
        self.baseline = record_reference(self.model, task, spec, reason="recorded", roundings=roundings)
        other = record_reference(self.model, type(task)("other", task.pairs[:8]), spec, reason="another", roundings=())
        save_all([self.baseline, other], self.kept)
        self.json_name, self.array_name = (
            next(self.kept.glob(f"{task.name}.{end}")).name for end in ("json", "*.safetensors")
        )
        self.json, self.arrays = ((self.kept / name).read_bytes() for name in (self.json_name, self.array_name))
        self.content = json.loads(self.json)
        self.values = safetensors.numpy.load(self.arrays)
        self.restore()

    def restore(self) -> None:
        """Everything as it was recorded."""
        shutil.rmtree(self.folder)
        shutil.copytree(self.kept, self.folder)

    def put(self, json_bytes: bytes, arrays: bytes) -> str:
        """Writes a pair of files, the arrays under the name that the JSON says, and tells what the gate makes of it."""
        name = self.array_name
        found = re.search(rb'"sha256": "([0-9a-f]{16})', json_bytes)
        if found and arrays != self.arrays:
            name = f"{Path(self.json_name).stem}.{found[1].decode()}.safetensors"
        (self.folder / self.json_name).write_bytes(json_bytes)
        (self.folder / name).write_bytes(arrays)
        try:
            return self.outcome(json_bytes, arrays)
        finally:
            (self.folder / name).unlink()
            (self.folder / self.array_name).write_bytes(self.arrays)

    def outcome(self, json_bytes: bytes | None = None, arrays: bytes | None = None) -> str:
        """Loads the baseline, and says whether a reviewer would see what is in it."""
        loaded = Baseline.load(self.folder / self.json_name)
        if json_bytes is None or arrays is None:
            json_bytes, arrays = encode(loaded)
        if (json_bytes, arrays) == (self.json, self.arrays):
            return "unchanged"
        again = encode(loaded)
        if again[1] != arrays or not _is_near(json.loads(again[0]), json.loads(json_bytes)):
            return "hidden: the JSON does not follow from the arrays"
        self._use(loaded)
        now, before = (
            json.dumps(_without_hashes(one), sort_keys=True) for one in (json.loads(json_bytes), self.content)
        )
        return "shown" if now != before else "hidden: nothing but a hash differs"

    def _use(self, loaded: Baseline) -> None:
        """What comes after loading must not fail in other ways either."""
        describe_change(self.baseline, loaded)
        environment_notes(loaded, self.model.facts.environment)
        if zlib.crc32(encode(loaded)[0]) % MEASURED == 0:
            measure(self.model, loaded)


def _without_hashes(content: dict[str, Any]) -> dict[str, Any]:
    arrays = {key: value for key, value in content["arrays"].items() if key not in HASHES}
    return content | {"checksum": "", "arrays": arrays}


def _is_near(one: Any, other: Any, scale: float = 1.0) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            key == "checksum" or _is_near(one[key], other[key], scale) for key in one
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_is_near(a, b, scale) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= NEAR * max(abs(one), abs(other)) + 1e-8 * scale
    return type(one) is type(other) and one == other


def _raw(target: Target, chance: random.Random) -> str:
    if chance.random() < 0.5:
        return target.put(mutated_bytes(chance, target.json), target.arrays)
    return target.put(target.json, mutated_bytes(chance, target.arrays))


def _resealed_json(target: Target, chance: random.Random) -> str:
    if chance.random() < 0.1:
        return target.put(twice(chance, target.json), target.arrays)
    return target.put(forgery.resealed(mutated_json(chance, target.content)), target.arrays)


def _resealed_header(target: Target, chance: random.Random) -> str:
    arrays = mutated_header(chance, target.arrays)
    return target.put(forgery.resealed(target.content, arrays), arrays)


def _resealed_arrays(target: Target, chance: random.Random) -> str:
    arrays = safetensors.numpy.save(mutated_arrays(chance, target.values))
    return target.put(forgery.resealed(target.content, arrays), arrays)


def _both(target: Target, chance: random.Random) -> str:
    arrays = safetensors.numpy.save(mutated_arrays(chance, target.values))
    return target.put(forgery.resealed(mutated_json(chance, target.content), arrays), arrays)


def _swapped(target: Target, chance: random.Random) -> str:
    """Files of others, no files, and what is no file."""
    ours = [target.folder / target.json_name, target.folder / target.array_name]
    others = [next(target.folder.glob(f"other.{end}")) for end in ("json", "*.safetensors")]
    which = chance.randrange(2)
    file, other = ours[which], others[which]
    edits: list[Callable[[], object]] = [
        lambda: shutil.copy(other, file),
        lambda: [shutil.copy(other, file) for file, other in zip(ours, others, strict=True)],
        lambda: [shutil.copy(others[0], ours[0]), shutil.copy(others[1], _named_like(others[1], ours[0]))],
        lambda: shutil.copy(ours[1 - which], file),
        lambda: _instead(file, lambda: file.symlink_to(chance.choice(["/dev/zero", "/dev/random", "/dev/stdin"]))),
        lambda: _instead(file, lambda: file.symlink_to(file)),
        lambda: _instead(file, lambda: os.mkfifo(file)),
        lambda: _instead(file, file.mkdir),
        lambda: _instead(file, lambda: None),
        lambda: _instead(file, file.touch),
        lambda: os.truncate(file, chance.choice([10**9, 10**11, 10**13])),
        lambda: (target.folder / chance.choice(["x.json", os.fsdecode(b"\xff.json"), "ioi..json"])).touch(),
        lambda: file.write_bytes(b"[" * chance.choice([10**3, 10**6]) + b"]" * 10),
        lambda: file.write_bytes(json.dumps(chance.choice([10**5 * [0], {"schema": 6}, 7, "x"])).encode()),
    ]
    try:
        chance.choice(edits)()
        return target.outcome()
    finally:
        target.restore()


def _named_like(array_file: Path, json_file: Path) -> Path:
    return json_file.with_name(array_file.name.replace("other.", f"{json_file.stem}.", 1))


def _instead(file: Path, make: Callable[[], object]) -> None:
    file.unlink()
    make()


KINDS: dict[str, tuple[Callable[[Target, random.Random], str], float]] = {
    "raw bytes": (_raw, 0.25),
    "resealed JSON": (_resealed_json, 0.25),
    "resealed headers": (_resealed_header, 0.1),
    "resealed arrays": (_resealed_arrays, 0.2),
    "resealed JSON and arrays": (_both, 0.05),
    "swapped files": (_swapped, 0.05),
}
"""Kind of mutation, and its share; hypothesis makes the rest."""


def attack_baselines(times: int, seed: int = 0) -> list[Tally]:
    """All kinds of mutations, in these shares."""
    tallies = []
    for kind, (mutate, share) in KINDS.items():

        def make(mutate: Callable[[Target, random.Random], str] = mutate) -> Attempt:
            target = Target()
            return lambda chance: mutate(target, chance)

        tallies.append(attempts(f"baselines: {kind}", make, max(1, round(times * share)), seed))
    rest = max(1, times - sum(sum(tally.counts.values()) for tally in tallies))
    return [*tallies, attempts("baselines: hypothesis", lambda: _hypothesis(rest, seed), rest, seed)]


def _hypothesis(times: int, seed: int) -> Attempt:
    """Examples of hypothesis' own strategies, one an attempt: any JSON anywhere, any bytes, any array."""
    target = Target()
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(STRANGE)
    values = st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
    )
    kinds = arrays_of.scalar_dtypes().filter(lambda kind: kind.kind in "fiub" and kind.itemsize <= 8)
    shapes = arrays_of.array_shapes(max_dims=4, max_side=6, min_side=0)
    arrays = kinds.flatmap(lambda kind: arrays_of.arrays(kind.newbyteorder("<"), shapes))
    example = st.one_of(
        st.tuples(st.just("value"), st.integers(0, 10**6), values),
        st.tuples(st.just("bytes"), st.booleans(), st.binary(max_size=4000)),
        st.tuples(st.just("array"), st.integers(0, 10**6), arrays),
    )
    drawn: list[Any] = []

    @seeded(seed)
    @settings(
        max_examples=times + 1,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(example)
    def draw(one: Any) -> None:
        drawn.append(one)

    draw()
    examples = iter(drawn)

    def attempt(chance: random.Random) -> str:
        kind, place, value = next(examples, None) or drawn[chance.randrange(len(drawn))]
        if kind == "bytes":
            return target.put(value, target.arrays) if place else target.put(target.json, value)
        if kind == "array":
            name = sorted(target.values)[place % len(target.values)]
            file = safetensors.numpy.save(target.values | {name: np.ascontiguousarray(value)})
            return target.put(forgery.resealed(target.content, file), file)
        content = json.loads(target.json)
        places = list(_json_places(content))
        parent, key = places[place % len(places)]
        parent[key] = value
        return target.put(forgery.resealed(content), target.arrays)

    return attempt


def _json_places(value: Any) -> Any:
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _json_places(value[key])
