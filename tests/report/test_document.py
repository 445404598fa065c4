"""report.json: valid JSON, a fixed set of keys, and every key of it documented."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import synthetic_results as synthetic
from report_documents import many_run, placed_run
from synthetic_results import make_excess

from circuitcheck.core.census import Census, WeightKind
from circuitcheck.core.features import DictionaryFacts, FeatureMeasure, FeaturesMeasure
from circuitcheck.core.population import Histogram
from circuitcheck.core.results import Area, CurvePoint, Estimate, Integrated, Loosened, Repair
from circuitcheck.core.routes import RoutedLayer, RoutingMeasure
from circuitcheck.report.conversion import as_plain
from circuitcheck.report.document import document, failed_entry, failed_keep_entry, keep_entry, run_entry
from circuitcheck.verdict.criteria import BY_NAME

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "report.md"
NAN = synthetic.exactly(float("nan"))
ENVIRONMENT = {
    "device": "NVIDIA H100",
    "circuitcheck": "0.1.0",
    "instruction_set": "AVX2",
    "libraries": {"torch": "2.13.0"},
    "python": "3.11.9",
}


def strict(content: dict) -> dict:
    """What a reader of the file gets; NaN and infinity are no JSON."""
    return json.loads(json.dumps(content, allow_nan=False))


def key_paths(content: object, path: str = "") -> set[str]:
    """Every key, with `[]` for the entries of a list."""
    if isinstance(content, dict):
        found = {f"{path}.{key}".lstrip(".") for key in content}
        return found.union(*(key_paths(value, f"{path}.{key}".lstrip(".")) for key, value in content.items()))
    if isinstance(content, list):
        return set().union(*(key_paths(value, f"{path}[]") for value in content))
    return set()


def damaged(**changes: Any) -> Any:
    """A measurement in which everything was found that can be."""
    curve = (CurvePoint(1, Estimate(0.5, 0.4, 0.6)), CurvePoint(2, Estimate(0.9, 0.8, 1.0)))
    quiet = synthetic.make_circuit()
    kinds = dict.fromkeys(synthetic.KINDS, synthetic.exactly(4.0))
    lost = synthetic.make_head(0, 0, 4.0, 0.5, importance_ref_by_kind=kinds)
    circuit = replace(
        quiet,
        profile_distance=synthetic.exactly(0.875),
        excess=make_excess(),
        units=(lost, synthetic.make_head(0, 1)),
        repair=Repair(
            diagnosis="localized",
            damage=Estimate(3.0, 2.0, 4.0),
            recovery=Estimate(0.9, 0.8, 1.0),
            unrepaired=Estimate(0.05, 0.0, 0.09),
            curves={"drift": curve},
            random=curve,
            areas={"drift": Area(0.7, Estimate(0.2, 0.1, 0.3))},
        ),
        bound=replace(quiet.bound, integrated=Integrated(0.1, 0.02)),
        basis=synthetic.make_basis(renumbered={"0.0": "0.1", "0.1": "0.0"}),
    )
    dense = WeightKind("Linear", "float16", 16.0, 24, 1_179_648)
    known = {
        "census": Census((dense,), (dense,), 24, 0, 16.0, None),
        "environment": ENVIRONMENT,
        "notes": ("noted",),
    }
    return synthetic.make_measurement(circuit, **known | changes)


@pytest.fixture(scope="module")
def real() -> dict[str, Any]:
    """A report of a damaged candidate, a task that is not solved, and one that could not be measured."""
    eased = (Loosened("drift_median", "<=", 1.0, 0.2),)
    broken = run_entry(replace(synthetic.make_verdict(damaged()), loosened=eased))
    unsolved = replace(synthetic.make_measurement(task="unsolved"), circuit=None, inconclusive="not solved")
    entries = [broken, run_entry(synthetic.make_verdict(unsolved)), failed_entry("m", "f16", "t", "why")]
    faithful = run_entry(synthetic.make_verdict())
    gone = failed_entry("m", "gone", "t", "why")
    old = document([faithful, gone])
    return strict(document(entries, expected=4, command="pytest --circuit-report", old=old))


def test_every_criterion_is_documented():
    row = next(line for line in DOCUMENTATION.read_text("utf-8").splitlines() if "`runs[].criteria[].name`" in line)
    assert [name for name in BY_NAME if f"`{name}`" not in row] == []


def test_report_has_the_documented_outline(real):
    assert real["schema"] == 3
    assert real["command"] == "pytest --circuit-report"
    assert real["environment"]["libraries"]["torch"]
    assert (real["complete"], real["expected_runs"], len(real["runs"])) == (False, 4, 3)
    run = real["runs"][0]
    for key in ("model", "candidate", "task", "verdict"):
        assert isinstance(run[key], str)
    assert {"name", "value", "limit", "unit", "verdict"} <= run["criteria"][0].keys()
    assert {
        *("unit", "layer", "column", "importance_ref", "importance_cand", "drift", "cosine", "fragility", "repair_gain")
    } <= run["units"][0].keys()
    assert run["repair"]["recovery"] is not None
    assert run["bound"]["violated"] in (True, False)
    assert run["units"][0]["importance_ref"] == {"value": 4.0, "interval": [4.0, 4.0]}
    assert (run["unit"], run["broken"]) == ("head", ["0.0"])


def test_every_run_has_the_same_keys(real):
    keys = [list(run) for run in real["runs"]]
    assert [sorted(keys[0])] * 3 == [sorted(run) for run in keys]
    assert [run["verdict"] for run in real["runs"][1:]] == ["INCONCLUSIVE", "FAIL"]
    assert real["runs"][2]["message"] == "why"
    assert [run["units"] for run in real["runs"][1:]] == [[], []]


def test_criteria_say_what_the_verdict_says():
    verdict = synthetic.make_verdict(
        synthetic.make_measurement(synthetic.make_circuit(drift_median=Estimate(0.3, 0.25, 0.35)))
    )
    found = {row["name"]: row for row in run_entry(verdict)["criteria"]}
    assert found["drift_median"] == {
        "name": "drift_median",
        "value": {"value": 0.3, "interval": [0.25, 0.35]},
        "limit": 0.2,
        "relation": "<=",
        "unit": "relative norm",
        "verdict": "FAIL",
        "message": "drift_median is 0.3 [0.25, 0.35], must be <= 0.2",
    }
    assert found["metric_change"]["message"] == ""


def test_what_is_not_finite_is_null_everywhere():
    head = synthetic.make_head(
        importance_ref=NAN, importance_cand=NAN, importance_change=NAN, drift=float("inf"), repair_gain=float("nan")
    )
    known = synthetic.make_circuit()
    circuit = replace(
        known,
        metric_change=NAN,
        drift_largest=Estimate(1.0, 0.0, float("inf")),
        units=(head,),
        ranking=replace(known.ranking, ceiling=float("nan")),
        bound=replace(known.bound, looseness=float("nan")),
    )
    verdict = synthetic.make_verdict(synthetic.make_measurement(circuit))
    report = strict(document([run_entry(verdict)]))
    run = report["runs"][0]
    found = {row["name"]: row for row in run["criteria"]}
    assert found["metric_change"]["value"] == {"value": None, "interval": [None, None]}
    assert found["drift_largest"]["value"]["interval"] == [0.0, None]
    unit = run["units"][0]
    assert (unit["drift"], unit["repair_gain"], unit["importance_change"]["value"]) == (None, None, None)
    assert (run["ranking"]["ceiling"], run["bound"]["looseness"]) == (None, None)
    assert (run["repair"]["curves"], run["repair"]["random"], run["repair"]["areas"]) == ({}, [], {})


def test_limit_that_is_not_finite_is_null():
    verdict = synthetic.make_verdict(drift_largest=float("inf"))
    found = {row["name"]: row for row in strict(document([run_entry(verdict)]))["runs"][0]["criteria"]}
    assert found["drift_largest"]["limit"] is None


def test_run_is_complete_unless_more_were_expected():
    entries = [failed_entry("m", "c", "t", "why")]
    assert document(entries)["complete"] is True
    assert document(entries, expected=1)["complete"] is True
    assert document(entries, expected=2)["complete"] is False


def test_document_takes_entries_once():
    report = document(iter([failed_entry("m", "c", "t", "why")]))
    assert (len(report["runs"]), report["expected_runs"]) == (1, 1)


def test_environment_is_that_of_the_first_measured_entry_and_names_the_device():
    failed, measured = failed_entry("m", "c", "t", "why"), run_entry(synthetic.make_verdict(damaged()))
    assert document([failed, measured])["environment"] == ENVIRONMENT
    assert document([failed])["environment"].keys() == {"circuitcheck", "python"}
    assert measured["environment"] == ENVIRONMENT


def test_other_kinds_of_units_are_named_by_their_labels():
    block = replace(synthetic.make_head(3, 1), unit="mlp 3")
    entry = run_entry(
        synthetic.make_verdict(synthetic.make_measurement(synthetic.make_circuit(units=(block,)), unit="block"))
    )
    assert (entry["unit"], entry["units"][0]["unit"], entry["units"][0]["column"]) == ("block", "mlp 3", 1)
    assert failed_entry("m", "c", "t", "why", "block")["unit"] == "block"


def test_keep_list_that_was_not_found_has_the_same_keys():
    found = attached(failed_entry("m", "c", "t", "why"))["keep"]
    assert failed_keep_entry("why") == dict.fromkeys(found, "") | {
        "modules": [], "verdict": "FAIL", "measured": 0, "message": "why"
    }  # fmt: skip


@dataclass(frozen=True)
class Leaf:
    number: float
    estimate: Estimate


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.1), 0.1),
        (np.float64(1.23456789e-7), 1.23457e-7),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (True, True),
        (12345678, 12345678),
        (float("-inf"), None),
        (np.array([[1.0, np.nan]]), [[1.0, None]]),
        ({1: (None, "a")}, {"1": [None, "a"]}),
        (
            Leaf(2 / 3, Estimate(1, 0.5, float("inf"))),
            {"number": 0.666667, "estimate": {"value": 1, "interval": [0.5, None]}},
        ),
    ],
)
def test_conversion_gives_plain_data_with_six_digits(value, expected):
    found = as_plain(value)
    assert found == expected
    assert type(found) is type(expected)


def test_what_is_no_data_is_refused():
    with pytest.raises(TypeError, match="cannot hold object"):
        as_plain({"a": [object()]})


def features() -> FeaturesMeasure:
    one = Histogram((0.0, 1.0), (3,))
    facts = DictionaryFacts("feature 2", "topk", "0" * 64, 512, 300, 0.9)
    lost = FeatureMeasure("feature 2.7", 2, 0.5, 0.1, 0.3, 0.9, survives=False)
    return FeaturesMeasure((facts,), (0.8,), 3, Estimate(0.6, 0.5, 0.7), 0.7, one, one, (lost,))


def attached(entry: dict) -> dict:
    """What is added to an entry by those that looked for it."""
    return entry | {
        "features": as_plain(features()),
        "routing": as_plain(RoutingMeasure(8, Estimate(0.1, 0, 0.2), (RoutedLayer(0, (0.4, 0.6), (0.5, 0.5), 0.1),))),
        "noise": {"instruction_set": "AVX2", "sources": {"threads=1": {"drift": 1e-7}}},
        "multiverse": {
            "flips": 1,
            "of": 1,
            "specifications": [
                {
                    "ablation": "zero",
                    "metric": "logit_difference",
                    "ablate_at": "all",
                    "verdict": "PASS",
                    "message": "",
                }
            ],
        },
        "keep": keep_entry(
            SimpleNamespace(
                modules=("layers.0.dense",),
                verdict="PASS",
                measured=3,
                torchao="",
                compressed_tensors="",
                bitsandbytes="",
                llama_cpp="",
                onnxruntime="",
            )
        ),
        "placing": placed_run({}, 1)["placing"],
        "population": many_run({"units": [], "broken": []}, 1, 8)["population"],
    }


def test_every_key_of_a_real_report_is_documented(real):
    documented = set(re.findall(r"^\| `([^`]+)` \|", DOCUMENTATION.read_text(encoding="utf-8"), re.MULTILINE))
    # Names that are data, not keys: noise sources and measures, libraries, orders and kinds.
    named = {
        r"^(environment\.libraries|runs\[\]\.noise_floor|runs\[\]\.repair\.(?:curves|areas))\.[^.\[]+": r"\1.<name>",
        r"^(runs\[\]\.noise\.sources)\.[^.\[]+": r"\1.<name>",
        r"^(runs\[\]\.noise\.sources\.<name>)\.[^.\[]+": r"\1.<measure>",
        r"^(runs\[\]\.associations|runs\[\]\.units\[\]\.importance_ref_by_kind)\.[^.\[]+": r"\1.<kind>",
        r"^(runs\[\]\.basis\.renumbered)\..+": r"\1.<unit>",
        r"^(runs\[\]\.environment)\..+": r"\1",
        r"^(compare\.(?:old|removed|runs\[\]\.(?:criteria|units)))(?:\[\])?\..+": r"\1",
    }
    present = key_paths(real | {"runs": [attached(run) for run in real["runs"]]})
    for pattern, name in named.items():
        present = {re.sub(pattern, name, path) for path in present}
    assert present == documented
