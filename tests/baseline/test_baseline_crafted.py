"""A stranger's baseline whose checksums are all right is still held to types, ranges, shapes and to its own arrays."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import replace
from typing import Any

import forgery
import numpy as np
import pytest
import safetensors.numpy
import synthetic

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.baseline.encoding import decode, encode
from circuitcheck.core.errors import BaselineError

JSON, ARRAYS = encode(synthetic.make_baseline())
UNREADABLE = r"^golden baseline x\.json (cannot be read: |is truncated or corrupt|has schema |was changed after)"


def assert_refused(json_bytes: bytes, arrays: bytes = ARRAYS) -> str:
    with pytest.raises(BaselineError, match=UNREADABLE) as caught:
        decode(json_bytes, arrays, name="x.json")
    assert len(str(caught.value)) < 600
    return str(caught.value)


def loaded(json_bytes: bytes, arrays: bytes) -> Baseline | None:
    """The baseline, or None where it is refused as it should be."""
    try:
        return Baseline(**decode(json_bytes, arrays, name="x.json"))
    except BaselineError:
        assert_refused(json_bytes, arrays)
        return None


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where anything stands in a JSON; of a list only its first item."""
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    return [path, *(place for key, item in inside for place in places(item, (*path, key)))]


def at(content: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        content = content[key]
    return content


PLACES = [path for path in places(json.loads(JSON)) if path not in [(), ("checksum",)]]
STRANGE = [None, True, -1, 2**70, 0.5, -1e300, "", "../../../x", "\ud800", "x" * 30_000, [], [[]], {}, {"": 0}]


@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(map(str, path)))
def test_no_place_of_the_json_can_hold_anything_else(path):
    """What is free text, or a number that no array says, may be another one; then a reviewer reads just that."""
    for strange in STRANGE:
        content = json.loads(JSON)
        if at(content, path) == strange:
            continue
        at(content, path[:-1])[path[-1]] = strange
        accepted = loaded(forgery.resealed(content), ARRAYS)
        if accepted is None:
            continue
        assert encode(accepted)[0] == forgery.resealed(content)
        assert path[0] in ("task", "fingerprints", "environment", "reason", "noise", "ceiling", "model", "notes")


@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(map(str, path)))
def test_no_place_of_the_json_can_be_missing_or_hold_more(path):
    content = json.loads(JSON)
    del at(content, path[:-1])[path[-1]]
    if path[0] not in ("noise", "notes") and path[:2] not in [("environment", "libraries"), ("model", "architecture")]:
        assert_refused(forgery.resealed(content))
    if isinstance(at(json.loads(JSON), path), dict):
        content = json.loads(JSON)
        at(content, path)["unheard of"] = [1.0, 1.0, 1.0]
        if path not in [("environment", "libraries"), ("model", "architecture")]:
            assert_refused(forgery.resealed(content))


@pytest.mark.parametrize("number", [0, 1, True, 7])
def test_a_number_is_spelled_as_it_is_written(number):
    """To Python 7 is 7.0, and true is 1."""
    content = json.loads(JSON)
    content["noise"]["AVX2"]["one thread"]["drift"] = number
    assert_refused(forgery.resealed(content))


def test_keys_that_stand_twice_are_refused():
    twice = JSON.replace(b' "reason": "because",\n', b' "reason": "because",\n "reason": "because",\n')
    assert len(twice) > len(JSON)
    assert_refused(twice)


def test_what_a_reviewer_reads_follows_from_the_arrays():
    """The arrays of a pruned model under the JSON of the honest one."""
    arrays = encode(synthetic.make_baseline(seed=1))[1]
    message = assert_refused(forgery.resealed(json.loads(JSON), arrays), arrays)
    assert "what it says under 'summary' does not follow from its arrays" in message


def test_the_last_digit_may_be_that_of_another_machine():
    """Its sums run in another order."""
    content = json.loads(JSON)
    row = content["summary"]["units"][0]["zero"]
    unit = 10.0 ** (math.floor(math.log10(abs(row[0]))) - 5)
    row[0] = float(f"{row[0] + unit:.6g}")
    decode(forgery.resealed(content), ARRAYS, name="x.json")
    row[0] = float(f"{row[0] + unit:.6g}")
    assert_refused(forgery.resealed(content))


NAMES = sorted(safetensors.numpy.load(ARRAYS))


CHANGES = {
    "none": lambda _: None,
    "one less": lambda array: array[:-1],
    "one more": lambda array: np.concatenate([array, array[:1]]),
    "empty": lambda array: array[:0],
    "flat": lambda array: array.reshape(-1, 1, 1, 1),
    "wide": lambda array: array.astype(array.dtype.str.replace("4", "8")),
    "half": lambda array: array.astype(np.float16),
    "negative": lambda array: np.full_like(array, -1),
    "not a number": lambda array: np.full(array.shape, np.nan, np.float32),
    "infinite": lambda array: np.full(array.shape, np.inf, np.float32),
    "huge": lambda array: np.full_like(array, 2**31 - 1),
    "doubled": lambda array: array * 2,
    "reversed": lambda array: array[::-1].copy(),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_no_array_can_have_another_shape_type_or_value(name, change):
    """No value that a reviewer would not see: what he reads, and hashes that he cannot, follow from the arrays."""
    arrays = safetensors.numpy.load(ARRAYS)
    old = arrays.pop(name)
    new = change(old)
    if new is not None:
        arrays[name] = new
    json_bytes, content = forgery.with_arrays(JSON, arrays)
    accepted = loaded(json_bytes, content)
    if content == ARRAYS:
        assert accepted is not None
    elif accepted is not None:  # a candidate's writes are then read elsewhere, which makes nothing more alike
        assert encode(accepted) == (json_bytes, content)
        assert name == "reading.tokens"


def test_more_arrays_and_metadata_are_refused():
    arrays = safetensors.numpy.load(ARRAYS)
    assert "unheard" in assert_refused(*forgery.with_arrays(JSON, arrays | {"unheard": np.zeros(3, np.float32)}))
    content = safetensors.numpy.save(arrays, metadata={"more": "words"})
    assert "form that they are written in" in assert_refused(forgery.resealed(json.loads(JSON), content), content)


@pytest.mark.parametrize("metric", ["os:getcwd", "posixpath:join", "forged.module:run"])
def test_the_metric_that_a_baseline_names_is_not_imported(metric, monkeypatch):
    baseline = synthetic.make_baseline()
    files = encode(replace(baseline, spec=replace(baseline.spec, metric=metric)))
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"imported {name}"))
    assert Baseline(**decode(*files, name="x.json")).spec.metric == metric


def test_a_task_cannot_be_called_like_a_path(tmp_path):
    content = json.loads(JSON)
    content["task"]["name"] = "../../../x"
    json_file = synthetic.make_baseline().save(tmp_path)[0]
    json_file.write_bytes(forgery.resealed(content))
    with pytest.raises(BaselineError, match="no golden baseline can be called"):
        Baseline.load(json_file)


def test_a_pipe_or_a_device_is_not_read(tmp_path):
    json_file, array_file = synthetic.make_baseline().save(tmp_path)
    for file in (array_file, json_file):
        file.unlink()
        file.symlink_to("/dev/zero")
        with pytest.raises(BaselineError, match=rf"{re.escape(str(file))} cannot be read: it is no regular file"):
            Baseline.load(json_file)
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(BaselineError, match=rf"{re.escape(str(file))} cannot be read: it is no regular file"):
            Baseline.load(json_file)


def test_a_huge_file_is_not_read(tmp_path):
    json_file, array_file = synthetic.make_baseline().save(tmp_path)
    for file in (array_file, json_file):
        with file.open("r+b") as stream:
            stream.truncate(10**11)
        with pytest.raises(
            BaselineError, match=r"corrupt, or belongs|it has 100000000000 bytes, and at most [0-9]+ are"
        ):
            Baseline.load(json_file)


def test_a_link_to_a_regular_file_is_read(tmp_path):
    """As in folders that git-annex or DVC keeps."""
    json_file, array_file = synthetic.make_baseline().save(tmp_path / "store")
    folder = tmp_path / "links"
    folder.mkdir()
    for file in (json_file, array_file):
        (folder / file.name).symlink_to(file)
    assert Baseline.load(folder / json_file.name).reason == "because"


@pytest.mark.parametrize("change", [{"draws": 10**9}, {"part": 0}, {"seed": -1}, {"margin": 1e300}, {"unit": "a/b"}])
def test_a_specification_out_of_range_is_refused(change):
    content = json.loads(JSON)
    content["spec"] |= change
    assert_refused(forgery.resealed(content))
