"""`--circuit-ray`: the same run with workers on a cluster of its own, and clusters that cannot be used."""

from __future__ import annotations

import shutil

import pytest
from gate_runner import Gate

from circuitcheck.core.errors import ConfigurationError, ModelError
from circuitcheck.plugin.cases import Case
from circuitcheck.plugin.far_cases import Found, can_be_dealt, require_same, start_measuring
from circuitcheck.plugin.settings import Settings

pytest.importorskip("ray")


def test_a_run_on_a_cluster_reports_what_one_process_does_and_where(gate: Gate) -> None:
    gate.run("--circuit-report-dir", "alone")
    result = gate.run_subprocess("--circuit-report-dir", "out", "--circuit-ray", "-W", "ignore")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["worker * on node *: * parts of sweeps, * rows, * s, * MiB"])
    report = gate.report()
    workers = report.pop("workers")
    assert report == gate.report("alone")
    assert sum(worker["parts"] for worker in workers) > 0
    assert all(set(worker) >= {"node", "process", "rows", "seconds", "memory", "ended"} for worker in workers)


def test_many_cases_are_measured_whole_wherever_a_worker_is_free(gate: Gate) -> None:
    shutil.copytree(gate.model, gate.path / "saved")
    gate.configure(candidates=["f16", "saved"], tasks=["ioi.jsonl", "facts.jsonl"])
    gate.run("--circuit-report-dir", "alone")
    (gate.path / "conftest.py").write_text(
        "from circuitcheck.plugin import executing\n\nexecuting.CASES_A_WORKER = 0\n"
    )
    result = gate.run_subprocess("--circuit-report-dir", "out", "--circuit-ray", "-W", "ignore")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["worker * on node *: * whole case*, 0 parts of sweeps, 0 rows, * s, * MiB"])
    report = gate.report()
    workers = report.pop("workers")
    assert report == gate.report("alone")
    done = sorted(name for worker in workers for name in worker["cases"])
    assert done == ["f16-facts", "f16-ioi", "saved-facts", "saved-ioi"]


def test_what_a_worker_measured_from_other_files_does_not_count() -> None:
    case, found = Case(0, "saved", "ioi"), Found({}, "a" * 64, "b" * 64)
    require_same(case, found, "a" * 64, "b" * 64)
    require_same(case, found, None, "b" * 64)
    same = r"All machines of a cluster must see the same files under one path\.$"
    with pytest.raises(ConfigurationError, match=f"^a worker sees another baseline for ioi than this process. {same}"):
        require_same(case, found, None, "c" * 64)
    with pytest.raises(
        ModelError, match=f"^a worker sees another saved .* weights aaaaaaaaaaaa, not cccccccccccc. {same}"
    ):
        require_same(case, found, "c" * 64, "b" * 64)
    with pytest.raises(ModelError, match="weights that cannot be loaded, not cccccccccccc"):
        require_same(case, Found({}, "", "b" * 64), "c" * 64, "b" * 64)


def test_a_worker_without_the_folder_of_the_run_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"^a worker cannot use the folder /nowhere \(No such file"):
        start_measuring(Settings(), "/nowhere")


def test_what_cases_share_or_leave_behind_keeps_them_in_one_process(tmp_path) -> None:
    assert can_be_dealt(Settings(ray="local"))
    rest = [
        Settings(),
        *(Settings(ray="local", **{name: True}) for name in ("against_base", "keep", "multiverse", "calibrate")),
        Settings(ray="local", resume=tmp_path),
        Settings(ray="local", metric="package:function"),
    ]
    assert not any(map(can_be_dealt, rest))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--circuit-ray=127.0.0.1:1",), "no Ray cluster answers at 127.0.0.1:1 ("),
        (("--circuit-ray", "test_gate.py"), "ray is 'test_gate.py', but must be host:port or auto, written"),
        (("--circuit-ray=local", "-n2"), "--circuit-ray has workers of its own, so it never runs in parallel"),
    ],
)
def test_clusters_that_cannot_be_used_are_refused_before_anything_is_measured(gate: Gate, arguments, said) -> None:
    result = gate.run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said in " ".join(" ".join(result.errlines).split())


def test_a_missing_package_is_named(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("circuitcheck.plugin.settings_checks.find_spec", lambda _: None)
    result = gate.run("--circuit-ray=local")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert '--circuit-ray needs ray: pip install "circuitcheck[ray]".' in " ".join(result.errlines)
