"""What is saved is what is loaded, to the byte, and the JSON is one that a reviewer can read."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import synthetic
import tiny_circuits
import tiny_models
from hypothesis import given, settings
from quick_recording import record

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.baseline.encoding import _is_near, decode, encode
from circuitcheck.baseline.names import baseline_file
from circuitcheck.core.activations import Activations
from circuitcheck.core.prompts import Task
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.core.units import Layout


def assert_same(one: Any, other: Any) -> None:
    """Arrays to the bit (so that NaN, -0.0 and the type count); numbers of the JSON to six significant digits."""
    if isinstance(one, np.ndarray):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert one.tobytes() == other.tobytes()
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=1e-5)
    elif isinstance(one, MeasurementSpec | Task | Layout):  # to the last digit: they are fingerprinted
        assert one == other
    elif is_dataclass(one):
        assert type(one) is type(other)
        for field in fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_same(value, other[key])
    elif isinstance(one, tuple):
        assert len(one) == len(other)
        for ours, theirs in zip(one, other, strict=True):
            assert_same(ours, theirs)
    else:
        assert one == other


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
    return record(model, tiny_circuits.solvable_task(model), reason="the first")


def test_recorded_baseline_round_trips_through_files(recorded, tmp_path):
    written = recorded.save(tmp_path / "made" / "on demand")
    assert written[0] == baseline_file(tmp_path / "made" / "on demand", "tiny")
    loaded = Baseline.load(written[0])
    assert_same(recorded, loaded)
    again = loaded.save(tmp_path)
    assert [file.name for file in written] == [file.name for file in again]
    assert [file.read_bytes() for file in written] == [file.read_bytes() for file in again]


def test_units_of_another_kind_have_files_of_their_own(recorded, tmp_path):
    recorded.save(tmp_path)
    model = tiny_models.tiny_model()
    blocks = record(model, tiny_circuits.solvable_task(model), MeasurementSpec(unit="block"))
    written = blocks.save(tmp_path)
    assert written[0].name == "tiny.block.json"
    assert re.fullmatch(r"tiny\.block\.[0-9a-f]{16}\.safetensors", written[1].name)
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
        "beside",
        "ceiling",
        "checksum",
        "environment",
        "fingerprints",
        "layout",
        "model",
        "next_token",
        "noise",
        "notes",
        "population",
        "reading",
        "reason",
        "roundings",
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
    again = encode(record(model, tiny_circuits.solvable_task(model), reason="the first"))
    assert again == encode(recorded)
    assert not re.search(rb"unmistakable|\d{4}-\d\d-\d\d|\d\d:\d\d|/home/|/tmp/", again[0])


def test_unsolved_task_round_trips(tmp_path):
    baseline = synthetic.make_baseline()
    empty = Activations((), (), tuple(np.empty((0, 2, 3), np.float32) for _ in range(2)))
    nothing = replace(
        baseline,
        metric=-baseline.metric,
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


@pytest.mark.parametrize("number", [1.0, 0.187825, 0.0818637, 9.5])
def test_the_last_of_six_digits_may_turn_out_differently_and_no_other(number: float) -> None:
    """What a rounding measures is kept as float32: 0.1878255 may be written as 0.187825 and read as 0.187826."""
    step = 10.0 ** (math.floor(math.log10(number)) - 5)
    assert _is_near(float(f"{number + step:.6g}"), number, 1.0)
    assert not _is_near(float(f"{number + 12 * step:.6g}"), number, 1.0)
