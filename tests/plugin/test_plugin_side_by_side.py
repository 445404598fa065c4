"""Cases of small models are spread over processes, and threads that wait sleep."""

from __future__ import annotations

import gc
import os
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from gate_runner import Gate, report_section

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.baseline.encoding import encode
from circuitcheck.core.candidates import EMBEDDED
from circuitcheck.core.errors import CircuitcheckError
from circuitcheck.gate.accept import Acceptance
from circuitcheck.plugin import side_by_side
from circuitcheck.plugin.acceptances import Acceptances
from circuitcheck.plugin.cases import Case
from circuitcheck.plugin.progress_bars import shows_nothing
from circuitcheck.plugin.references import References
from circuitcheck.plugin.session import GateSession
from circuitcheck.plugin.settings import Settings
from circuitcheck.plugin.side_by_side import SMALL, Others, are_small, cores
from circuitcheck.plugin.store import Store

PATIENCE = 240
"""Seconds for a process to import and measure; a guard against hanging, not a measurement."""


def settings_of(gate: Gate, **more: object) -> Settings:
    tasks = tuple(str(gate.path / name) for name in ("ioi.jsonl", "facts.jsonl"))
    known = {"candidates": ("f32", "f16"), "tasks": tasks, "baselines": gate.path / "baselines"}
    return Settings(model=str(gate.model), **known | more)


def session_of(settings: Settings, store: Path) -> GateSession:
    store.mkdir()
    return GateSession(settings, Store(store), shows_nothing)


def test_a_run_says_the_same_however_many_processes_measure(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    gate.configure(candidates=["f32", "f16"], tasks=["ioi.jsonl", "facts.jsonl"])
    alone = gate.run_subprocess("--circuit-report-dir", "alone")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    together = gate.run_subprocess("--circuit-report-dir", "together")
    assert alone.ret == together.ret == pytest.ExitCode.OK
    assert report_section(alone) == report_section(together)
    files = [gate.path / name / "report.json" for name in ("alone", "together")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("is_copy", [True, False])
def test_another_process_measures_what_this_one_would(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_copy: bool
) -> None:
    """One that starts anew, and a copy of this one."""
    monkeypatch.setattr(side_by_side, "can_be_copied", lambda: is_copy)
    settings, folder = settings_of(gate), tmp_path / "others"
    here = session_of(settings, tmp_path / "here")
    folder.mkdir()
    store, others = Store(folder), Others(settings, Store(folder))
    loaded: list[bool] = []
    others.start(here.cases, 1, lambda: loaded.append(True))
    assert loaded == [True] * is_copy
    try:
        until = time.monotonic() + PATIENCE
        while len(store.entries(here.cases)) < len(here.cases) and time.monotonic() < until:
            time.sleep(0.1)
    finally:
        others.close()
    assert store.entries(here.cases) == [here.entry(case) for case in here.cases]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere no process is copied")
def test_what_earlier_runs_of_a_process_have_left_is_still_garbage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a program calls pytest time and again."""
    monkeypatch.setattr(side_by_side, "can_be_copied", lambda: True)
    monkeypatch.setattr(side_by_side, "measure", lambda *_: None)

    class Model:
        pass

    try:
        gc.unfreeze()
        for _ in range(2):
            others = Others(Settings(), Store(tmp_path))
            others.start((), 1, lambda: None)
            others.close()
            assert gc.get_freeze_count() > 0
            left = Model()
            left.own = left
            is_left = weakref.ref(left)
            del left
        others.start((), 1, lambda: None)
        others.close()
        gc.collect()
        assert is_left() is None
    finally:
        gc.unfreeze()


def test_another_process_begins_with_the_longest_of_the_last(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Candidate, whichever task stands first."""
    order: list[Case] = []
    monkeypatch.setattr(GateSession, "do_if_free", lambda _, case: order.append(case))
    settings = settings_of(gate)
    (store := tmp_path / "store").mkdir()
    cases = session_of(settings, tmp_path / "here").cases
    side_by_side.measure(settings, store, cases, 2, os.getppid())
    tokens = {"ioi": 0, "facts": 0}
    for name in tokens:
        task = Baseline.load(gate.baseline_file("json", name)).task
        tokens[name] = sum(len(pair.clean) for pair in task.pairs)
    assert tokens["ioi"] != tokens["facts"]
    longest, shortest = sorted(tokens, key=lambda name: -tokens[name])
    assert [(case.candidate, case.task_name) for case in order] == [
        ("f16", longest),
        ("f16", shortest),
        ("f32", longest),
        ("f32", shortest),
    ]


def test_a_small_models_baselines_are_read_once(gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, read, load = session_of(settings_of(gate), tmp_path / "here"), [], Baseline.load
    monkeypatch.setattr(Baseline, "load", lambda file: read.append(file) or load(file))
    for _ in range(2):
        assert all(here.tokens_of(case) for case in here.cases)
    assert len(read) == 2
    monkeypatch.setattr("circuitcheck.plugin.session.are_small", lambda _: False)
    large, before = session_of(settings_of(gate), tmp_path / "large"), len(read)
    for _ in range(2):
        large.tokens_of(large.cases[0])
    assert len(read) == before + 2


@pytest.mark.parametrize("is_copy", [True, False])
def test_one_that_is_lost_costs_nothing(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_copy: bool
) -> None:
    """Here its program is not even found, or it ends at once."""
    monkeypatch.setattr(side_by_side, "can_be_copied", lambda: is_copy)
    monkeypatch.setattr(side_by_side, "_MAIN", "raise SystemExit(3)")
    monkeypatch.setattr(side_by_side, "measure", lambda *_: os._exit(3))
    monkeypatch.setattr("circuitcheck.plugin.session.cores", lambda: 2)
    here = session_of(settings_of(gate), tmp_path / "here")
    here.select(here.cases, may_spread=True)
    try:
        assert [here.entry(case)["verdict"] for case in here.cases] == ["PASS"] * 4
    finally:
        here.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere no process is copied")
@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("", True),
        ("import torch, transformers", True),
        ("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()", False),
        ("sys.modules['onnxruntime'] = sys", False),
    ],
)
def test_when_a_process_can_be_copied(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, before: str, expected: bool
) -> None:
    """Not beside a thread that might hold a lock, nor with libraries that must not be copied."""
    monkeypatch.setenv(side_by_side.ARRAY_THREADS, "1")  # as the gate sets it before numpy is loaded
    result = pytester.runpython_c(
        f"import sys\n{before}\nfrom circuitcheck.plugin.side_by_side import can_be_copied\nprint(can_be_copied())\n"
    )
    result.stdout.fnmatch_lines([str(expected)])


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """How many cases each start was given, and how many processes; none is started, and nothing is measured."""
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(Others, "start", lambda _, cases, count, __: found.append((len(cases), count)))
    monkeypatch.setattr(GateSession, "measured", lambda *_: {"verdict": "PASS"})
    return found


@pytest.mark.parametrize(("threads", "cases", "expected"), [(1, 12, 0), (2, 12, 1), (8, 12, 3), (2, 3, 0), (2, 4, 1)])
def test_how_many_processes_are_started(
    started: list[tuple[int, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
    cases: int,
    expected: int,
) -> None:
    """One for every three cases that are left, and never more than cores."""
    monkeypatch.setattr("circuitcheck.plugin.session.cores", lambda: threads)
    here = session_of(Settings(), tmp_path / "here")
    assert len(here.cases) == 12
    here.select(here.cases[:cases], may_spread=True)
    for case in here.cases[:cases]:
        here.entry(case)
    assert started == [(cases - 1, expected)]


@pytest.mark.parametrize(
    ("settings", "processes", "may_spread"),
    [
        (Settings(), 2, True),  # xdist's workers share the cases already
        (Settings(), 1, False),  # somebody steps through them
        (Settings(device="cuda"), 1, True),
        (Settings(model="owner/name"), 1, True),
    ],
)
def test_when_none_is(
    started: list[tuple[int, int]], tmp_path: Path, settings: Settings, processes: int, may_spread: bool
) -> None:
    here = GateSession(settings, Store(tmp_path), shows_nothing, processes)
    here.select(here.cases, may_spread=may_spread)
    here.entry(here.cases[0])
    assert started == []


def test_baselines_are_the_same_however_many_processes_make_them(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    gate.configure(candidates=["f32", "f16"], tasks=["ioi.jsonl", "facts.jsonl"])
    before = gate.stored()
    results, found = [], []
    for threads in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        results.append(gate.run_subprocess("--circuit-calibrate"))
        found.append(gate.stored())
        for name, content in before.items():
            (gate.baselines.parent / name).write_bytes(content)
    assert [result.ret for result in results] == [pytest.ExitCode.OK] * 2
    assert found[0] == found[1] != before


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(accept="all", reason="why"), [(2, 1)]),
        (Settings(calibrate=True), [(2, 1)]),
        (Settings(accept="changed", reason="why"), [(1, 1)]),
        (Settings(accept="new", reason="why"), [(1, 1)]),
        (Settings(accept="all", reason="why", tasks=("facts",)), [(0, 0)]),
    ],
)
def test_one_more_for_every_baseline_that_is_to_be_made(
    started: list[tuple[int, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    expected: list[tuple[int, int]],
) -> None:
    """Here the first is made by this process; of the two others, one is there already."""
    monkeypatch.setattr("circuitcheck.plugin.session.cores", lambda: 2)
    monkeypatch.setattr(GateSession, "_made", lambda _, case, __: Acceptance(case.task_name, "made"))
    monkeypatch.setattr(References, "file", lambda _, case: tmp_path / ("here" if case.task == "facts" else case.task))
    (tmp_path / "here").touch()
    here = session_of(settings, tmp_path / "store")
    here.select(here.cases, may_spread=True)
    for case in here.cases:
        assert here.accept(case) == Acceptance(case.task_name, "made")
    assert started == [*expected, *[(0, 0)] * (len(settings.tasks) - 1)]


def test_what_another_process_made_is_what_it_would_be_here(gate: Gate, tmp_path: Path) -> None:
    case, baseline = Case(3, "f16", "ioi"), Baseline.load(gate.baselines / "ioi.json")
    made = Acceptance("ioi", "accepted", ("a line", "another"), baseline)
    there, here = (Acceptances(Store(tmp_path)) for _ in range(2))
    there.make_if_free(case, lambda: made)
    found = here.of(case, lambda: pytest.fail("it is made"))
    assert (found.task, found.outcome, found.details) == (made.task, made.outcome, made.details)
    assert encode(found.baseline) == encode(baseline)
    other = Case(4, "f16", "facts")
    assert here.of(other, lambda: made) is here.of(other, lambda: pytest.fail("it is made")) is made
    there.make_if_free(other, lambda: pytest.fail("it is made"))


def test_what_cannot_be_made_elsewhere_is_said_by_who_asks(tmp_path: Path) -> None:
    def refuses() -> Acceptance:
        raise CircuitcheckError("no")

    case, acceptances = Case(0, "f16", "ioi"), Acceptances(Store(tmp_path))
    acceptances.make_if_free(case, refuses)
    with pytest.raises(CircuitcheckError, match="no"):
        acceptances.of(case, refuses)


def test_a_case_that_another_process_holds_is_left_to_it(tmp_path: Path) -> None:
    store, case, made = Store(tmp_path), Case(0, "f16", "ioi"), []
    with Store(tmp_path).lock("case-0000"):
        store.measure_if_free(case, lambda: made.append(1) or {})
    assert made == []
    assert store.entries([case]) == []
    for _ in range(2):
        store.measure_if_free(case, lambda: made.append(1) or {"verdict": "PASS"})
    assert made == [1]
    assert store.entries([case]) == [{"verdict": "PASS"}]


def test_which_models_are_small(tmp_path: Path) -> None:
    def sized(name: str, size: int) -> str:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        with file.open("wb") as stream:
            stream.truncate(size)  # sparse: takes no space
        return name

    small, large = sized("small/model.safetensors", SMALL), sized("large/model-1.safetensors", SMALL + 1)
    gguf = str(tmp_path / sized("large.gguf", SMALL + 1))
    assert are_small(Settings())
    assert are_small(Settings(model=EMBEDDED, candidates=("f16", "int8")))
    assert are_small(Settings(model=str(tmp_path / small.split("/")[0])))
    assert not are_small(Settings(model=str(tmp_path / large.split("/")[0])))
    assert not are_small(Settings(candidates=(f"{gguf}@kv=q8_0",)))
    assert not are_small(Settings(model=str(tmp_path / "absent")))
    assert not are_small(Settings(device="cuda:1"))


@pytest.mark.parametrize(
    ("before", "given", "expected"),
    [("", None, "PASSIVE"), ("", "ACTIVE", "ACTIVE"), ("import torch; ", None, "None")],
)
def test_threads_that_wait_sleep(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, before: str, given: str | None, expected: str
) -> None:
    """Only before torch is loaded can it be told, and what somebody has chosen stays."""
    monkeypatch.delenv(side_by_side.WAIT, raising=False)
    if given:
        monkeypatch.setenv(side_by_side.WAIT, given)
    result = pytester.runpython_c(
        f"{before}import os\nfrom circuitcheck.plugin.side_by_side import wait_passively\nwait_passively()\n"
        f"print('waits:', os.environ.get('{side_by_side.WAIT}'))\n"
    )
    result.stdout.fnmatch_lines([f"waits: {expected}"])


def test_the_gate_says_so_before_torch_is_loaded(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(side_by_side.WAIT, raising=False)
    (gate.path / "conftest.py").write_text(
        "import os, sys\n\n\n"
        "def pytest_collection_finish(session):\n"
        f"    print('waits:', os.environ['{side_by_side.WAIT}'], 'torch' in sys.modules)\n"
    )
    result = gate.run_subprocess("--collect-only", "-q", "-s", "--circuit-report")
    result.stdout.fnmatch_lines(["*waits: PASSIVE False"])


def test_cores_are_torchs_threads_and_without_it_what_it_will_have(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert cores() == torch.get_num_threads()
    monkeypatch.delitem(sys.modules, "torch")
    for given, expected in (("3", 3), ("0", 1), ("2,1", len(os.sched_getaffinity(0)))):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert cores() == expected
