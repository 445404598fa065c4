"""`--circuit-shard` and `python -m circuitcheck.merge`: parts make what one run would have made, or nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gate_folder import random_model, save_model
from gate_runner import Gate, files_below

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.merge.__main__ import main
from circuitcheck.plugin.cases import Case
from circuitcheck.plugin.shards import Shard, parse_shard

BOTH = ["ioi.jsonl", "facts.jsonl"]
ACCEPT = ("--circuit-accept=all", "--circuit-reason", "divided")


def run_part(gate: Gate, number: int, count: int = 2, *arguments: str, out: str = "parts") -> pytest.RunResult:
    return gate.run("--circuit-shard", f"{number}/{count}", "--circuit-report-dir", out, *arguments)


@pytest.fixture
def merge(gate: Gate, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main(arguments)
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def test_parts_of_a_gate_make_its_report(gate: Gate, merge) -> None:
    """One of the cases fails; the parts are in one folder, as on a cluster's shared disk."""
    limits = {"int8-sim": {"ioi": {"drift_median": 0.001}}}
    gate.configure(candidates=["f16", "int8-sim"], tasks=BOTH, limits=limits)
    serial = gate.run("--circuit-report-dir", "serial")
    gate.count_measurements()
    first, second = run_part(gate, 1), run_part(gate, 2)
    assert gate.measured == ["f16-facts", "f16-ioi", "int8-sim-facts", "int8-sim-ioi"]
    assert (first.ret, second.ret) == (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    first.assert_outcomes(passed=8)
    first.stdout.fnmatch_lines(["wrote parts/shard-1-of-2.json"])
    first.stdout.fnmatch_lines(["circuit gate: PASS (2 PASS); shard 1/2, merge all: python -m circuitcheck.merge *"])
    assert files_below(gate.path / "parts") == ["shard-1-of-2.json", "shard-2-of-2.json"]
    code, said = merge("merged", "parts")
    assert code == serial.ret == pytest.ExitCode.TESTS_FAILED
    for name in ("report.json", "report.md", "report.html"):
        assert (gate.path / "merged" / name).read_bytes() == (gate.path / "serial" / name).read_bytes()
    assert said.splitlines()[-1] == serial.outlines[-1] == "circuit gate: FAIL (3 PASS, 1 FAIL)"
    code, said = merge("compared", "parts", "--compare", "serial/report.json")
    assert "nothing moved beyond its interval in 4 of 4" in said
    assert json.loads((gate.path / "compared" / "report.json").read_text())["compare"] is not None
    refused(gate, merge)


def refused(gate: Gate, merge) -> None:
    """Everything that is wrong with parts; here, because making them takes most of the time."""
    parts, before = gate.path / "parts", files_below(gate.path)
    one, two = (parts / f"shard-{number}-of-2.json" for number in (1, 2))

    def says(expected: str, *given: Any) -> None:
        code, said = merge("never", *map(str, given))
        assert code == pytest.ExitCode.USAGE_ERROR
        assert expected in " ".join(said.split())
        assert not (gate.path / "never").exists()

    def changed(name: str, **changes: Any) -> Path:
        found = json.loads(two.read_text())
        for key, value in changes.items():
            place = found["run"] if key in found["run"] else found
            place[key] = value(place[key]) if callable(value) else value
        file = gate.path / name
        file.write_text(json.dumps(found))
        return file

    says("shard 2 of 2 is missing", one)
    says("shard 1 of 2 is missing", two)
    says("is there more than once", parts, two)
    says("there is no part", one, "nowhere.json")
    says("holds no shard-I-of-N.json", gate.path / "model")
    says("differ in code (", one, changed("code.json", code="0" * 64))
    says("differ in limits (", one, changed("limits.json", limits="0" * 64))
    says("differ in torch (", one, changed("torch.json", torch="1.0"))
    says("differ in baselines (", one, changed("baselines.json", baselines="0" * 64))
    says("differ in number of shards (2 and 3)", one, changed("three.json", shards=3))
    says("one recorded, and one compared", one, changed("none.json", report=None))
    says("did the same cases", one, changed("cases.json", numbers=[0, 1]))
    says("shard_schema is 9, not 1", one, changed("schema.json", shard_schema=9))
    says("is damaged: ", one, changed("negative.json", shard=-1))
    says("is damaged: ", one, changed("beyond.json", shard=7))
    says("is damaged: ", one, changed("runs.json", report={}))
    word = changed("word.json", report=lambda report: report | {"verdict": "PASS"})
    says("contradicts itself: its verdict is PASS, and its runs come to FAIL", one, word)
    (gate.path / "cut.json").write_text(two.read_text()[:-100])
    says("is not JSON", one, gate.path / "cut.json")
    for file in gate.path.glob("*.json"):
        file.unlink()
    assert files_below(gate.path) == before


def test_a_candidate_of_other_weights_in_one_part_is_refused(gate: Gate, merge) -> None:
    shutil.copytree(gate.model, gate.path / "release")
    gate.configure(candidates=["release"], tasks=BOTH)
    run_part(gate, 1)
    save_model(random_model(seed=1), gate.path / "release")
    run_part(gate, 2)
    code, said = merge("never", "parts")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "candidate release had other weights in parts/shard-2-of-2.json" in said
    assert not (gate.path / "never").exists()


def test_a_part_that_was_stopped_leaves_an_incomplete_report(gate: Gate, merge) -> None:
    gate.configure(tasks=BOTH)
    run_part(gate, 1)
    run_part(gate, 2, 2, "-k", "nothing")
    code, said = merge("merged", "parts")
    assert json.loads((gate.path / "merged" / "report.json").read_text())["complete"] is False
    assert said.splitlines()[-1].startswith("circuit gate: INCOMPLETE (1 PASS, 1 of 2 not compared)")
    assert code == 0, "outside of CI, where a person reads it"


def test_parts_of_a_recording_make_its_baselines(gate: Gate, merge) -> None:
    gate.configure(tasks=BOTH)
    shutil.rmtree(gate.path / "baselines")
    results = [run_part(gate, number, 2, *ACCEPT) for number in (1, 2)]
    assert [result.ret for result in results] == [0, 0]
    results[1].stdout.fnmatch_lines(["facts: accepted: *", "wrote parts/shard-2-of-2.json"])
    assert not (gate.path / "baselines").exists(), "nothing is recorded before all parts are there"
    code, said = merge("baselines", "parts")
    assert code == 0
    assert "ioi: accepted: " in said
    divided = gate.stored()
    shutil.rmtree(gate.path / "baselines")
    gate.run(*ACCEPT)
    assert gate.stored() == divided
    part = gate.path / "parts" / "shard-2-of-2.json"
    good = part.read_text()
    (recorded,) = (gate.path / "parts" / "shard-2-of-2" / "model").glob("*.json")
    for text, expected in (
        (good.replace('"failed": []', '"failed": ["facts: no"]'), "nothing was written, because tasks are written"),
        (good.replace('"name": "facts.json"', '"name": "../facts.json"'), "no baseline can be called"),
        (good.replace('"model": "model"', '"model": "../model"'), "no one model can be called so"),
        (good.replace('"sha256": "', '"sha256": "0'), "is not the one that shard 2 recorded"),
    ):
        assert text != good
        part.write_text(text)
        code, said = merge("baselines", "parts")
        assert (code, expected in " ".join(said.split())) == (pytest.ExitCode.USAGE_ERROR, True)
    part.write_text(good)
    recorded.unlink()
    code, said = merge("baselines", "parts")
    assert "cannot be read: No such file" in said
    assert gate.stored() == divided


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--circuit-shard=1/2",), "--circuit-shard needs --circuit-report-dir DIR"),
        (("--circuit-shard=2/1", "--circuit-report-dir=out"), "shard is '2/1', but must be I/N, the I-th of N shards"),
        (("--circuit-shard=0/2", "--circuit-report-dir=out"), "shard is '0/2', but must be I/N"),
        (("--circuit-shard=a", "--circuit-report-dir=out"), "shard is 'a', but must be I/N"),
        (("--circuit-shard=1/2", "--circuit-report-dir=out"), "there are 1 cases (candidates times tasks times kinds"),
        (("--circuit-shard=1/2", "--circuit-report-dir=out", *ACCEPT), "there are 1 baselines to record"),
        (("--circuit-shard=1/1", "--circuit-report-dir=out", "--circuit-figures=pictures"), "give --figures"),
    ],
)
def test_shards_that_cannot_be_are_refused_before_anything_is_measured(gate: Gate, arguments, said) -> None:
    result = gate.run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said in " ".join(" ".join(result.errlines).split())
    assert not (gate.path / "out").exists()


@pytest.mark.parametrize("count", range(1, 13))
@pytest.mark.parametrize("by_circuit", [False, True])
def test_every_case_is_in_one_shard(count: int, by_circuit: bool) -> None:
    cases = [Case(number, f"c{number // 4}", f"t{number % 4}") for number in range(12)]
    if by_circuit and count > 4:
        with pytest.raises(ConfigurationError, match="Give at most 4 shards"):
            Shard(1, count).of(cases, by_circuit=True)
        return
    found = [Shard(number, count).of(cases, by_circuit=by_circuit) for number in range(1, count + 1)]
    assert sorted((case for part in found for case in part), key=lambda case: case.number) == cases
    assert all(found)
    circuits = [{case.circuit for case in part} for part in found]
    assert not by_circuit or sum(map(len, circuits)) == 4
    assert parse_shard(f" {count}/12") == Shard(count, 12)
