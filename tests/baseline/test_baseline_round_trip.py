"""What is saved is what is loaded, to the byte, and the JSON is one that a reviewer can read."""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import fields, replace

import numpy as np
import pytest
import synthetic
import tiny_circuits
import tiny_models
from hypothesis import given, settings

from circuitcheck.baseline.baseline import Baseline, baseline_files
from circuitcheck.baseline.encoding import decode, encode
from circuitcheck.baseline.recording import Recording
from circuitcheck.core.activations import Activations
from circuitcheck.core.reading import Reading
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.record import record_reference


def assert_same(one: Recording, other: Recording) -> None:
    """Every field, arrays to the bit (so that NaN, -0.0 and the type count); `ceiling` and noise to six digits."""
    for field in fields(Recording):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        if field.name == "ceiling" and ours is not None:
            assert theirs == pytest.approx(ours, rel=1e-5)  # recorded in six significant digits
        elif field.name == "noise":
            assert list(theirs) == sorted(ours)
            for instruction_set, sources in ours.items():
                assert theirs[instruction_set].keys() == sources.keys()
                for source, change in sources.items():
                    assert theirs[instruction_set][source] == pytest.approx(change, rel=1e-5)  # likewise
        elif isinstance(ours, Activations):
            assert (ours.index, ours.lengths) == (theirs.index, theirs.lengths)
            assert len(ours.groups) == len(theirs.groups)
            for mine, yours in zip(ours.groups, theirs.groups, strict=True):
                assert_same_bits(mine, yours)
        elif isinstance(ours, Reading):
            assert (ours.source, ours.tokens) == (theirs.source, theirs.tokens)
            for mine, yours in zip(ours.maps, theirs.maps, strict=True):
                assert_same_bits(mine, yours)
        elif isinstance(ours, np.ndarray):
            assert_same_bits(ours, theirs)
        elif field.name == "ablated":
            assert ours.keys() == theirs.keys()
            for kind, values in ours.items():
                assert_same_bits(values, theirs[kind])
        else:
            assert ours == theirs


def assert_same_bits(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    assert ours.tobytes() == theirs.tobytes()


@settings(deadline=None, max_examples=60)
@given(baseline=synthetic.baselines())
def test_any_baseline_round_trips_to_the_same_bytes(baseline):
    files = encode(baseline)
    again = Baseline(**decode(*files, name="x.json"))
    assert_same(baseline, again)
    assert again.all_fingerprints == baseline.all_fingerprints
    assert encode(again) == files


def test_spec_of_more_than_six_digits_stays_what_was_fingerprinted():
    baseline = synthetic.make_baseline(spec=MeasurementSpec(margin=0.123456789))
    files = encode(baseline)
    assert Baseline(**decode(*files, name="x.json")).spec == baseline.spec
    assert json.loads(files[0])["fingerprints"]["spec"] == baseline.spec.fingerprint


@pytest.fixture(scope="module")
def recorded():
    model = tiny_models.tiny_model()
    return record_reference(model, tiny_circuits.solvable_task(model), reason="the first")


def test_recorded_baseline_round_trips_through_files(recorded, tmp_path):
    written = recorded.save(tmp_path / "made" / "on demand")
    assert written == list(baseline_files(tmp_path / "made" / "on demand", "tiny"))
    loaded = Baseline.load(written[0])
    assert_same(recorded, loaded)
    loaded.save(tmp_path)
    assert [file.read_bytes() for file in written] == [file.read_bytes() for file in baseline_files(tmp_path, "tiny")]


def test_units_of_another_kind_have_files_of_their_own(recorded, tmp_path):
    recorded.save(tmp_path)
    model = tiny_models.tiny_model()
    blocks = record_reference(model, tiny_circuits.solvable_task(model), MeasurementSpec(unit="block"))
    written = blocks.save(tmp_path)
    assert [file.name for file in written] == ["tiny.block.json", "tiny.block.safetensors"]
    assert_same(blocks, Baseline.load(written[0]))
    assert_same(recorded, Baseline.load(tmp_path / "tiny.json"))
    rows = json.loads(written[0].read_text())["summary"]["units"]
    assert [row["unit"] for row in rows] == ["attention 0", "mlp 0", "attention 1", "mlp 1"]


def test_files_are_readable_for_all_whatever_the_umask(recorded, tmp_path):
    usual = os.umask(0o077)
    try:
        written = recorded.save(tmp_path)
    finally:
        os.umask(usual)
    assert [stat.S_IMODE(file.stat().st_mode) for file in written] == [0o644, 0o644]


def test_json_is_for_reviewers(recorded):
    text = encode(recorded)[0].decode()
    content = json.loads(text)
    assert text == json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    assert sorted(content) == [
        "ablations",
        "arrays",
        "ceiling",
        "checksum",
        "environment",
        "fingerprints",
        "layout",
        "model",
        "noise",
        "notes",
        "reading",
        "reason",
        "schema",
        "spec",
        "summary",
        "task",
    ]
    assert content["reason"] == "the first"
    assert sorted(content["fingerprints"]) == ["prompts", "spec", "tokenizer", "weights"]
    heads = content["summary"]["units"]
    assert [row["unit"] for row in heads] == [f"{layer}.{head}" for layer in range(2) for head in range(4)]
    for row in heads:
        for kind in synthetic.KINDS:
            value, low, high = row[kind]
            assert low <= value <= high
    assert heads[5]["mean"][0] == pytest.approx(recorded.importance("mean")[5], rel=1e-5)  # six significant digits


def test_numbers_have_at_most_six_significant_digits(recorded):
    numbers = []

    def collect(text: str) -> float:
        numbers.append(text)
        return float(text)

    json.loads(encode(recorded)[0], parse_float=collect)
    digits = [len(number.partition("e")[0].replace("-", "").replace(".", "").strip("0")) for number in numbers]
    assert len(numbers) > 50  # 8 heads x 3 kinds x 3 numbers, less whole ones
    assert max(digits) <= 6


def test_same_input_gives_the_same_bytes_on_whatever_host_and_at_whatever_time(recorded, monkeypatch):
    for name in ("HOSTNAME", "USER", "LOGNAME"):
        monkeypatch.setenv(name, "unmistakable")
    monkeypatch.setattr("socket.gethostname", lambda: "unmistakable")
    monkeypatch.setattr("platform.node", lambda: "unmistakable")
    model = tiny_models.tiny_model()
    again = encode(record_reference(model, tiny_circuits.solvable_task(model), reason="the first"))
    assert again == encode(recorded)
    assert not re.search(rb"unmistakable|\d{4}-\d\d-\d\d|\d\d:\d\d|/home/|/tmp/", again[0])


def test_unsolved_task_round_trips(tmp_path):
    baseline = synthetic.make_baseline()
    empty = Activations((), (), tuple(np.empty((0, 2, 3), np.float32) for _ in range(2)))
    nothing = replace(
        baseline,
        solved=(),
        ablated={kind: np.empty((4, 0), np.float32) for kind in synthetic.KINDS},
        z=empty,
        gradient=empty,
        ceiling=None,
        noise={},
    )
    loaded = Baseline.load(nothing.save(tmp_path)[0])
    assert_same(nothing, loaded)
    assert "solves 0 of 6 prompts" in loaded.incompetence
