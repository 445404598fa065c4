"""Memory is a setting: what fits runs together, what does not fit is halved, and nothing computed is lost."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st
from patches import alone, patched_rows, units_of, zeros
from torch import Tensor, nn

from circuitcheck.core.errors import MemoryBudgetError
from circuitcheck.core.metric import LOG_PROBABILITY, LOGIT_DIFFERENCE, metric_from_settings
from circuitcheck.runtimes.pytorch import forward
from circuitcheck.runtimes.pytorch.engine import packing
from circuitcheck.runtimes.pytorch.engine.packing import plan, readout_bytes, record_bytes, row_bytes
from circuitcheck.runtimes.pytorch.engine.row_blocks import Block, Queue, blocks, is_out_of_memory
from circuitcheck.runtimes.pytorch.hooked import HookedModel

BATCH, SEQ = 6, 8

COMPLAINTS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 123 bytes."),
]


def tiny(**settings: object) -> HookedModel:
    return tiny_models.tiny_model("gpt_neox", num_hidden_layers=3, **settings)


@functools.cache
def wide() -> HookedModel:
    return tiny(hidden_size=64, intermediate_size=256)


def run(
    model: HookedModel,
    memory: int | None = None,
    advance: Callable[[int], None] = lambda _: None,
    notes: list[str] | None = None,
) -> Tensor:
    ids, targets = tiny_models.token_ids(BATCH, SEQ), tiny_models.token_ids(2, BATCH, seed=1)
    sets = [*alone(units_of(model)), units_of(model), ()]
    values = zeros(model, BATCH, SEQ)
    return patched_rows(model, ids, *targets, values, sets, advance=advance, memory=memory, notes=notes)


def refuse_above(model: HookedModel, rows: int, error: Exception) -> list[int]:
    """Makes the last layer run out of memory on more than so many rows; returns how often it did."""
    refusals: list[int] = []

    def refuse(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if len(arguments[0]) > rows:
            refusals.append(len(arguments[0]))
            raise error

    model.module.get_submodule(model.structure.layers[-1].path).register_forward_pre_hook(refuse)
    return refusals


@pytest.mark.parametrize("error", COMPLAINTS, ids=lambda error: type(error).__name__)
def test_a_batch_that_does_not_fit_is_halved_and_retried(error: Exception) -> None:
    model = tiny()
    expected, finished = run(model), []
    refusals = refuse_above(model, BATCH, error)
    found = run(model, advance=finished.append)
    assert refusals
    assert len(refusals) < len(units_of(model)), "what did not fit once is not tried again"
    # Other batch shapes round sums in another order.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    assert sum(finished) == expected.numel()


def test_prompts_whose_clean_pass_does_not_fit_are_recorded_in_parts() -> None:
    model = tiny()
    expected = run(model)
    refusals = refuse_above(model, BATCH - 1, MemoryError())
    torch.testing.assert_close(run(model), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    assert BATCH in refusals


def test_what_does_not_fit_row_by_row_is_an_error_that_says_what_to_do() -> None:
    model = tiny()
    refuse_above(model, 0, MemoryError())
    with pytest.raises(MemoryBudgetError, match=r"alone runs out of memory.*shorter prompts"):
        run(model)


def test_other_errors_are_not_retried() -> None:
    model = tiny()
    refusals = refuse_above(model, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        run(model)
    # Once in the clean pass, and once in the full pass that shows whether it was for how the clean pass was run.
    assert len(refusals) == 2


def test_a_budget_below_one_row_is_refused_with_the_figure_that_is_needed() -> None:
    model = tiny()
    needed = record_bytes(model, SEQ) + row_bytes(model, SEQ)
    with pytest.raises(MemoryBudgetError, match=f"needs about {needed:,} bytes.*budget is 1,000 bytes"):
        run(model, memory=1000)
    assert run(model, memory=needed).isfinite().all()


@pytest.mark.parametrize("rows", [1, 2, 7, 100])
def test_a_budget_changes_no_result(rows: int) -> None:
    model = tiny()
    expected = run(model)
    budget = 4 * record_bytes(model, SEQ) + rows * row_bytes(model, SEQ)
    torch.testing.assert_close(run(model, budget), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


SMALLER = "gpt_neox: memory forced smaller batches; roundings may differ from those of a run with more memory."


@pytest.mark.parametrize("share", ["few prompts", "few rows"])
def test_a_budget_that_forces_smaller_batches_is_noted_once(share: str) -> None:
    model, notes = tiny(), []
    record = record_bytes(model, SEQ)
    # A quarter of the budget is for the record; what that leaves of the second one holds 7 of 48 rows.
    budget = 4 * {"few prompts": 2, "few rows": BATCH}[share] * record
    for _ in range(2):
        run(model, budget, notes=notes)
    assert notes == [SMALLER]


def test_an_allocation_that_fails_is_noted() -> None:
    model, notes = tiny(), []
    refuse_above(model, BATCH, MemoryError())
    run(model, notes=notes)
    assert notes == [SMALLER]


def test_a_sufficient_budget_changes_no_bit_and_no_note() -> None:
    """Batches have the same shapes whatever is free beyond what they need."""
    model, notes = tiny(), []
    enough = 4 * BATCH * record_bytes(model, SEQ) + 128 * row_bytes(model, SEQ)
    results = [run(model, budget, notes=notes) for budget in (enough, 2 * enough, 100 * enough, None)]
    assert all(torch.equal(result, results[0]) for result in results)
    assert notes == []


def test_a_model_that_runs_few_rows_is_not_short_of_memory() -> None:
    model, notes = replace(tiny(), batch_size=2), []
    run(model, 4 * 2 * record_bytes(model, SEQ) + 2 * row_bytes(model, SEQ), notes=notes)
    assert notes == []
    planned = plan(model, SEQ, BATCH, None)
    assert (planned.prompts, planned.rows, planned.wanted) == (2, 2, 2)


@given(
    st.integers(1, 40),
    st.integers(1, 8) | st.none(),
    st.integers(0, 10**8),
)
def test_a_plan_keeps_to_its_budget(batch: int, size: int | None, extra: int) -> None:
    model = wide()
    seq = 8 * (size or 1)
    record, row = record_bytes(model, seq), row_bytes(model, seq)
    budget = record + row + extra
    planned = plan(model, seq, batch, budget)
    assert 1 <= planned.prompts <= batch
    assert planned.rows >= 1
    assert planned.prompts * record + planned.rows * row <= budget


def test_the_metric_is_part_of_what_a_row_needs() -> None:
    """12 bytes a logit: in the model's type, in float32, and once more where they are changed."""
    model, vocabulary = tiny(), tiny_models.VOCABULARY
    by_two_rows = row_bytes(model, SEQ)
    by_all = row_bytes(replace(model, quantity=LOG_PROBABILITY), SEQ)
    by_function = row_bytes(replace(model, quantity=metric_from_settings("metric_functions:last_difference")), SEQ)
    assert by_all - by_two_rows == 12 * vocabulary
    assert by_function - by_two_rows == 12 * vocabulary * SEQ


@pytest.mark.parametrize(("dtype", "copied"), [(torch.float32, 0), (torch.bfloat16, 4 * 50 * 32)])
def test_a_half_precision_unembedding_is_copied_where_all_of_it_is_read(dtype: torch.dtype, copied: int) -> None:
    model = tiny()
    model.module.to(dtype)
    assert readout_bytes(model) == 0
    assert readout_bytes(replace(model, quantity=LOG_PROBABILITY)) == copied


def test_a_large_vocabulary_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "CHUNK", 10 * 32)
    model = replace(tiny(), quantity=LOG_PROBABILITY)
    model.module.to(torch.bfloat16)
    assert readout_bytes(model) == 4 * 10 * 32
    assert row_bytes(model, SEQ) - row_bytes(replace(model, quantity=LOGIT_DIFFERENCE), SEQ) == 12 * 10


def test_a_model_without_an_unembedding_is_planned_for() -> None:
    model = tiny_models.tiny_model("bert-classifier")
    model = replace(model, quantity=metric_from_settings("metric_functions:class_difference"))
    assert plan(model, SEQ, BATCH, None).prompts == BATCH


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 60))
def test_blocks_hold_every_row_once(prompts: int, sets: int, rows: int) -> None:
    packed = blocks(prompts, range(100, 100 + sets), rows)
    seen = Counter(
        (prompt, number) for block in packed for prompt in range(block.start, block.stop) for number in block.sets
    )
    assert set(seen.values()) == {1}
    assert len(seen) == prompts * sets
    assert max(block.rows for block in packed) <= rows


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 400))
def test_halving_computes_every_row_once(prompts: int, sets: int, fitting: int) -> None:
    done: Counter[tuple[int, int]] = Counter()
    halved: list[bool] = []
    for block in (queue := Queue([Block(0, prompts, tuple(range(sets)))], lambda: halved.append(True))):
        if block.rows > fitting:
            queue.halve(block, MemoryError())
        else:
            done.update((prompt, number) for prompt in range(block.start, block.stop) for number in block.sets)
    assert bool(halved) is (prompts * sets > fitting)
    assert set(done.values()) == {1}
    assert len(done) == prompts * sets


@pytest.mark.parametrize("error", COMPLAINTS, ids=lambda error: type(error).__name__)
def test_what_counts_as_out_of_memory(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("expected scalar type Half"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_free_memory_is_the_least_that_any_limit_leaves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       16000000 kB\nMemAvailable:    4000000 kB\n")
    monkeypatch.setattr(packing, "MEMINFO", meminfo)
    monkeypatch.setattr(packing, "CGROUP", tmp_path / "none")
    cpu = torch.device("cpu")
    assert packing.free_memory(cpu) == 4_000_000 * 1024
    monkeypatch.setattr(packing, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("2000000000\n")
    (tmp_path / "memory.current").write_text("500000000\n")
    assert packing.free_memory(cpu) == 1_500_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert packing.free_memory(cpu) == 4_000_000 * 1024
    monkeypatch.setattr(packing, "MEMINFO", tmp_path / "none")
    assert packing.free_memory(cpu) == packing.UNKNOWN_FREE
