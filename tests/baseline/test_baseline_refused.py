"""Whatever happened to its files, a baseline that is not the recorded one is refused, and nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import synthetic
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.baseline.encoding import SCHEMA, decode, encode
from circuitcheck.baseline.names import baseline_file
from circuitcheck.core.errors import BaselineError, StaleBaselineError

JSON, ARRAYS = encode(synthetic.make_baseline())
FILES = st.sampled_from(["json", "arrays"])
WHICH = {"json": JSON, "arrays": ARRAYS}
untimed = settings(deadline=None, max_examples=300)


def load_changed(which: str, content: bytes) -> None:
    """Loads the baseline with one of its files changed."""
    decode(content if which == "json" else JSON, content if which == "arrays" else ARRAYS, name="x.json")


def checksum(content: dict) -> str:
    """The format's checksum, written anew from its documentation."""
    body = {key: value for key, value in content.items() if key != "checksum"}
    return hashlib.sha256((json.dumps(body, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()).hexdigest()


def crafted(arrays: bytes) -> bytes:
    """A JSON file whose checksums vouch for other arrays."""
    content = json.loads(JSON)
    content["arrays"] |= {"sha256": hashlib.sha256(arrays).hexdigest(), "bytes": len(arrays)}
    content["checksum"] = checksum(content)
    return (json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def test_checksum_is_as_documented_and_the_unchanged_files_load():
    assert json.loads(JSON)["checksum"] == checksum(json.loads(JSON))
    assert crafted(ARRAYS) == JSON
    load_changed("json", JSON)


@untimed
@given(which=FILES, place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_any_one_flipped_bit_is_refused(which, place, bit):
    content = bytearray(WHICH[which])
    content[place % len(content)] ^= 1 << bit
    with pytest.raises(BaselineError):
        load_changed(which, bytes(content))


@untimed
@given(which=FILES, place=st.integers(0, 10**6), value=st.integers(0, 255))
@example(which="json", place=JSON.index(b"e-07") + 1, value=ord("9"))  # 1e907: an infinite number
def test_any_one_other_byte_is_refused(which, place, value):
    content = bytearray(WHICH[which])
    place %= len(content)
    content[place] = value if value != content[place] else value ^ 1
    with pytest.raises(BaselineError):
        load_changed(which, bytes(content))


@untimed
@given(which=FILES, length=st.integers(0, 10**6))
@example(which="json", length=len(JSON) - 1)
@example(which="arrays", length=len(ARRAYS) - 1)
@example(which="arrays", length=0)
def test_truncation_at_any_length_is_refused(which, length):
    content = WHICH[which]
    with pytest.raises(BaselineError):
        load_changed(which, content[: length % len(content)])


@untimed
@given(which=FILES, place=st.integers(0, 10**6), extra=st.binary(min_size=1, max_size=4))
@example(which="json", place=len(JSON), extra=b"\n")
@example(which="json", place=0, extra=b"\xef\xbb\xbf")
@example(which="arrays", place=len(ARRAYS), extra=b"\0")
def test_extra_bytes_anywhere_are_refused(which, place, extra):
    content = WHICH[which]
    place %= len(content) + 1
    with pytest.raises(BaselineError):
        load_changed(which, content[:place] + extra + content[place:])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (rb'"minimum_clusters": 5', b'"minimum_clusters": 1'),
        (rb'"drift": 1e-07', b'"drift": 1e-01'),
        (rb'"drift": 1e-07', b'"drift": NaN'),
        (rb'"drift": 1e-07', b'"drift": 1e999'),
        (rb'"ceiling": 0.9', b'"ceiling": 0.90'),
        (rb'"reason": "because"', rb'"reason": "\\ud800"'),
        (rb'"reason": "because"', b'"reason": "because", "reason": "because"'),
        (rb'"solved": 6', b'"solved": 5'),
    ],
)
def test_hand_edits_are_refused_with_the_way_out(old, new):
    edited, count = re.subn(old, new.replace(b"\\\\", b"\\").replace(b"\\", b"\\\\"), JSON)
    assert count == 1
    with pytest.raises(
        BaselineError, match=r"changed after it was recorded: by hand|is truncated or corrupt"
    ) as caught:
        load_changed("json", edited)
    assert "version control" in str(caught.value)
    assert "accept it anew" in str(caught.value)


def test_line_endings_are_refused_with_a_hint():
    with pytest.raises(BaselineError, match=r"line-ending conversion \(mark the folder '-text' in .gitattributes\)"):
        load_changed("json", JSON.replace(b"\n", b"\r\n"))


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b"7", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_baseline_at_all_is_refused(content):
    with pytest.raises(BaselineError, match="truncated or corrupt"):
        load_changed("json", content)


@pytest.mark.parametrize("schema", [0, 1, 2, SCHEMA - 1, 99])
def test_other_schema_is_stale(schema):
    edited = JSON.replace(f'"schema": {SCHEMA}'.encode(), f'"schema": {schema}'.encode())
    with pytest.raises(StaleBaselineError) as caught:
        load_changed("json", edited)
    assert str(caught.value) == (
        f"golden baseline x.json has schema {schema}, and this version of circuitcheck writes schema {SCHEMA}. Record "
        "it anew: pytest --circuit-accept=changed --circuit-reason 'new schema'."
    )


def test_a_baseline_of_the_schema_before_units_is_refused_whatever_else_is_in_it(tmp_path):
    """Schema 2 as it was written: heads, no layout, other names of arrays."""
    arrays = safetensors.numpy.save({"heads": np.zeros((4, 2), np.int32), "z.00": np.zeros((6, 2, 3), np.float32)})
    content = {
        "schema": 2,
        "model": {"name": "made-up", "n_layers": 2},
        "summary": {"heads": [{"head": "0.0", "zero": [1.0, 0.5, 1.5]}]},
        "arrays": {"sha256": hashlib.sha256(arrays).hexdigest()},
    }
    content["checksum"] = checksum(content)
    json_file, array_file = tmp_path / "old.json", tmp_path / "old.safetensors"
    json_file.write_text(json.dumps(content, sort_keys=True, indent=1) + "\n")
    array_file.write_bytes(arrays)
    with pytest.raises(StaleBaselineError, match=r"has schema 2.*pytest --circuit-accept=changed --circuit-reason"):
        Baseline.load(json_file)


def test_arrays_of_another_recording_are_refused():
    with pytest.raises(BaselineError, match="belongs to another recording"):
        load_changed("arrays", encode(synthetic.make_baseline(seed=1))[1])


def test_crafted_arrays_that_lack_something_are_refused():
    arrays = safetensors.numpy.load(ARRAYS)
    del arrays["metric.mean"]
    without = safetensors.numpy.save(arrays)
    with pytest.raises(BaselineError, match=r"cannot be read: arrays that are missing, or .* knows: metric.mean"):
        decode(crafted(without), without, name="x.json")


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_nothing_is_unpickled_even_if_the_checksums_vouch_for_it(tmp_path):
    sign = tmp_path / "unpickled"
    payload = pickle.dumps(Bomb(sign))
    with pytest.raises(BaselineError, match="cannot be read"):
        decode(crafted(payload), payload, name="x.json")
    assert not sign.exists()
    pickle.loads(payload)  # the bomb works
    assert sign.exists()


def test_loading_calls_no_unpickler(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("unpickled")

    json_file = synthetic.make_baseline().save(tmp_path)[0]
    for target in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load"):
        monkeypatch.setattr(target, refuse)
    assert Baseline.load(json_file).model == "made-up"
    with pytest.raises(AssertionError, match="unpickled"):
        torch.load(json_file)


@pytest.mark.parametrize("gone", [0, 1])
def test_missing_file_is_named(tmp_path, gone):
    files = synthetic.make_baseline().save(tmp_path)
    files[gone].unlink()
    with pytest.raises(BaselineError, match=f"{re.escape(str(files[gone]))} is missing; record the reference first"):
        Baseline.load(files[0])


def test_folder_instead_of_a_file_is_named(tmp_path):
    file = baseline_file(tmp_path, "synthetic")
    file.mkdir()
    with pytest.raises(BaselineError, match="cannot be read: Is a directory"):
        Baseline.load(file)


def test_changed_file_on_disk_is_refused_by_its_name(tmp_path):
    json_file, array_file = synthetic.make_baseline().save(tmp_path)
    array_file.write_bytes(array_file.read_bytes()[:-1])
    with pytest.raises(BaselineError, match=f"golden baseline {re.escape(str(json_file))}: the safetensors file"):
        Baseline.load(json_file)
