"""A small version of `benchmarks/power.py`: a model whose circuit is known, and a few candidates of each truth.

Of the half that may be looked at.
"""

import json
import pickle
import sys

import numpy as np
import power
import pytest
from detection.evaluate import Case
from power import cases, measure_all, model_and_tasks, row_file

WANTED = (
    "computed again",
    "rounded in groups",
    "another basis",
    "noise in a head",
    "layers exchanged",
    "biases dropped",
)


@pytest.fixture(scope="module")
def wanted():
    return cases(["known-induction"], WANTED, None, 1, ["f32", "8-bit"])


@pytest.fixture(scope="module")
def rows(wanted, cache):
    return measure_all(wanted, cache, processes=1)


def test_what_is_measured(wanted, rows):
    assert len(wanted) == 10
    # it has no biases to drop
    assert len(rows) == 8
    assert {row.truth for row in rows} == {"benign", "material"}


def test_what_computes_the_same_passes_and_broken_circuits_do_not(rows):
    assert {row.family: row.word for row in rows if row.truth == "benign" and row.precision == "f32"} == {
        "computed again": "PASS",
        "another basis": "PASS",
    }
    assert {row.word for row in rows if row.truth == "material"} == {"FAIL"}


def test_all_that_was_measured_is_kept_as_plain_data(rows, wanted, cache):
    by_name = {(row.family, row.precision): row for row in rows}
    for case in wanted:
        file = row_file(cache, case).with_suffix(".pickle")
        if case.family == "biases dropped":
            assert not file.is_file()
            continue
        kept = pickle.loads(file.read_bytes())
        assert kept["row"]["truth"] == by_name[case.family, case.precision].truth
        units = kept["measurement"]["circuit"]["units"]
        drift = [unit["drift"] for unit in units]
        sums = kept["writes"]["units"]
        again = np.sqrt(sums["difference"].sum(1) / sums["reference"].sum(1))
        if case.family != "another basis":
            # sums are kept in float32
            assert again == pytest.approx(drift, rel=1e-4, abs=1e-6)
        assert sums["difference"].shape == (8, 32)
        assert kept["writes"]["layers"]["reference"].shape == (2, 32)
        ablated = [one for one in kept["told"] if one["what"] == "patched" and one["by"] == "resample"]
        assert ablated[0]["values"].shape == (8, 64)
        assert len(kept["fresh"]["metric"]) == 400
    reference = pickle.loads(next(row_file(cache, wanted[0]).parent.glob("reference*.pickle")).read_bytes())
    assert reference["ablated"]["resample"].shape == (8, 64)
    assert {one["precision"] for one in reference["roundings"]} >= {"8-bit", "4-bit"}
    assert reference["circuit"] == [(0, 2), (1, 1), (1, 3)]


def test_rows_are_found_again_and_shown(rows, wanted, cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(power, "Bench", lambda *_: pytest.fail("measured again"))
    assert measure_all(wanted, cache, processes=1) == rows
    file = tmp_path / "power.json"
    options = [
        "--subjects",
        "known-induction",
        "--families",
        *WANTED,
        "--precisions",
        "f32",
        "8-bit",
        "--per-family",
        "1",
    ]
    monkeypatch.setattr(sys, "argv", ["power.py", *options, "--cache", str(cache), "--jobs", "1", "--json", str(file)])
    power.main()
    assert "Area on" in capsys.readouterr().out
    content = json.loads(file.read_text())
    assert len(content["rows"]) == len(rows)
    assert {table["truth"] for table in content["choose"]["red"]} == {"benign", "material"}


def test_subjects_by_name():
    assert model_and_tasks("embedded") == ("embedded", ["ioi", "facts", "induction"])
    assert model_and_tasks("embedded/ioi") == ("embedded", ["ioi"])
    assert model_and_tasks("/some/model:/some/task.jsonl") == ("/some/model:/some/task.jsonl", ["task"])
    some = cases(["embedded/ioi"], ["GPTQ"], "report", 2, ["4-bit"])
    assert some == [Case("embedded", "ioi", "GPTQ", seed, "4-bit") for seed in range(2)]
    assert cases(["embedded/ioi"], ["GPTQ"], "choose", 2, []) == []
