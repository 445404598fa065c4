"""report.json: valid JSON, a fixed set of keys, and every key of it documented."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic
import tiny_circuits
import tiny_models

from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.diagnostics.keep_list import KeepList
from circuitcheck.gate.judge import judge
from circuitcheck.gate.measure import measure
from circuitcheck.gate.record import record_reference
from circuitcheck.report.document import document, failed_entry, keep_entry, run_entry
from circuitcheck.runtimes.pytorch.environment import environment
from circuitcheck.stats.estimate import Estimate
from circuitcheck.verdict.limits import Limits

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "report.md"
NAN = synthetic.exactly(float("nan"))


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


@pytest.fixture(scope="module")
def real():
    """A report of a damaged candidate, a task that is not solved, and one that could not be measured."""
    model = tiny_models.tiny_model()
    task = tiny_circuits.solvable_task(model)
    baseline = record_reference(model, task, MeasurementSpec(draws=100))
    candidate = tiny_circuits.copy_of(model)
    for head in range(4):
        tiny_circuits.output_columns(candidate, 0, head).mul_(-1)
    candidate.module.get_submodule(candidate.structure.output_layer).weight.data.mul_(0.7)
    damaged = run_entry(judge(measure(candidate, baseline, reference=model), Limits()))
    unsolved = record_reference(model, tiny_circuits.unsolvable_task(model))
    entries = [damaged, run_entry(judge(measure(model, unsolved))), failed_entry("m", "f16", "t", "why")]
    faithful = run_entry(judge(measure(model, baseline)))
    gone = failed_entry("m", "gone", "t", "why")
    old = document([faithful | {"candidate": damaged["candidate"]}, gone], environment())
    return strict(document(entries, environment(), expected=4, command="pytest --circuit-report", old=old))


def test_report_has_the_documented_outline(real):
    assert real["schema"] == 2
    assert real["command"] == "pytest --circuit-report"
    assert real["environment"]["libraries"]["torch"]
    assert (real["complete"], real["expected_runs"], len(real["runs"])) == (False, 4, 3)
    run = real["runs"][0]
    for key in ("model", "candidate", "task", "verdict"):
        assert isinstance(run[key], str)
    assert {"name", "value", "limit", "interval", "unit", "verdict"} <= run["criteria"][0].keys()
    assert {
        *("layer", "head", "importance_ref", "importance_cand", "drift", "cosine", "fragility", "repair_gain")
    } <= run["heads"][0].keys()
    assert run["repair"]["recovery"] is not None
    assert run["bound"]["violated"] in (True, False)
    assert len(run["heads"]) == 8


def test_every_run_has_the_same_keys(real):
    keys = [list(run) for run in real["runs"]]
    assert [sorted(keys[0])] * 3 == [sorted(run) for run in keys]
    assert [run["verdict"] for run in real["runs"][1:]] == ["INCONCLUSIVE", "FAIL"]
    assert real["runs"][2]["message"] == "why"
    assert [run["heads"] for run in real["runs"][1:]] == [[], []]


def test_criteria_say_what_the_verdict_says():
    verdict = judge(synthetic.make_measurement(synthetic.make_circuit(drift_median=Estimate(0.3, 0.25, 0.35))))
    found = {row["name"]: row for row in run_entry(verdict)["criteria"]}
    assert found["drift_median"] == {
        "name": "drift_median",
        "value": 0.3,
        "limit": 0.2,
        "relation": "<=",
        "interval": [0.25, 0.35],
        "unit": "relative norm",
        "verdict": "FAIL",
        "message": "drift_median is 0.3 [0.25, 0.35], must be <= 0.2",
    }
    assert found["metric_change"]["message"] == ""


def test_what_is_not_finite_is_null_everywhere():
    head = synthetic.make_head(
        importance_ref=NAN, importance_cand=NAN, importance_change=NAN, drift=float("inf"), cosine=float("nan")
    )
    known = synthetic.make_circuit()
    circuit = replace(
        known,
        metric_change=NAN,
        drift_largest=Estimate(1.0, 0.0, float("inf")),
        heads=(head,),
        ranking=replace(known.ranking, ceiling=float("nan")),
        bound=replace(known.bound, looseness=float("nan")),
    )
    verdict = judge(synthetic.make_measurement(circuit))
    report = strict(document([run_entry(verdict)], {"python": "3"}))
    run = report["runs"][0]
    found = {row["name"]: row for row in run["criteria"]}
    assert (found["metric_change"]["value"], found["metric_change"]["interval"]) == (None, [None, None])
    assert found["drift_largest"]["interval"] == [0.0, None]
    assert (run["heads"][0]["drift"], run["heads"][0]["importance_change"]) == (None, None)
    assert (run["ranking"]["ceiling"], run["bound"]["looseness"]) == (None, None)
    assert (run["repair"]["curves"], run["repair"]["random"], run["repair"]["areas"]) == ({}, [], {})


def test_limit_that_is_not_finite_is_null():
    verdict = judge(synthetic.make_measurement(), Limits(drift_largest=float("inf")))
    found = {row["name"]: row for row in strict(document([run_entry(verdict)], {}))["runs"][0]["criteria"]}
    assert found["drift_largest"]["limit"] is None


def test_run_is_complete_unless_more_were_expected():
    entries = [failed_entry("m", "c", "t", "why")]
    assert document(entries, {})["complete"] is True
    assert document(entries, {}, expected=1)["complete"] is True
    assert document(entries, {}, expected=2)["complete"] is False


def test_document_takes_entries_once():
    report = document(iter([failed_entry("m", "c", "t", "why")]), {})
    assert (len(report["runs"]), report["expected_runs"]) == (1, 1)


def attached(entry: dict) -> dict:
    """What is added to an entry by those that looked for it."""
    return entry | {
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
        "keep": keep_entry(KeepList(("layers.0.dense",), "PASS", 3)),
    }


def test_every_key_of_a_real_report_is_documented(real):
    documented = set(re.findall(r"^\| `([^`]+)` \|", DOCUMENTATION.read_text(encoding="utf-8"), re.MULTILINE))
    # Names that are data, not keys: noise sources and measures, libraries, orders and kinds.
    named = {
        r"^(environment\.libraries|runs\[\]\.noise_floor|runs\[\]\.repair\.(?:curves|areas))\.[^.\[]+": r"\1.<name>",
        r"^(runs\[\]\.noise\.sources)\.[^.\[]+": r"\1.<name>",
        r"^(runs\[\]\.noise\.sources\.<name>)\.[^.\[]+": r"\1.<measure>",
        r"^(runs\[\]\.associations)\.[^.\[]+": r"\1.<kind>",
        r"^(compare\.(?:old|removed|runs\[\]\.(?:criteria|heads)))(?:\[\])?\..+": r"\1",
    }
    present = key_paths(real | {"runs": [attached(run) for run in real["runs"]]})
    for pattern, name in named.items():
        present = {re.sub(pattern, name, path) for path in present}
    assert present == documented
