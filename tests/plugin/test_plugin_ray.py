"""`--circuit-ray`: the same run with workers on a cluster of its own, and clusters that cannot be used."""

from __future__ import annotations

import pytest
from gate_runner import Gate

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
