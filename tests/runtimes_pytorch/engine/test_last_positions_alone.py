"""Edits of the last positions run those alone, beside the clean run's keys and values, where that is proven."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import micro_model
import numpy as np
import pytest
import tiny_circuits
import tiny_models
import torch
from patches import ablated_metric, alone, patched_rows, read, repaired_metric, units_of
from torch import Tensor, nn

from circuitcheck.core.errors import MemoryBudgetError
from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.core.runtime import Work
from circuitcheck.runtimes.pytorch.engine import sweep
from circuitcheck.runtimes.pytorch.engine.clean_pass import LayerRecord, PerPrompt, record_clean_pass
from circuitcheck.runtimes.pytorch.engine.last_positions import FEW, EarlierPositions, record_last_positions
from circuitcheck.runtimes.pytorch.engine.packing import kept_bytes, last_row_bytes, record_bytes, row_bytes
from circuitcheck.runtimes.pytorch.hooked import HookedModel

BATCH, SEQ = 5, 9

# Logits of about 10 in float32, summed in another order by other batch shapes.
ROUNDING = 2e-5

DECODING = [
    name
    for name in tiny_models.SETTINGS
    if name not in ("bert", "bert-classifier", "roberta", "distilbert", "bloom", "gpt_bigcode", "ctrl", "mamba")
]
"""Among them sliding windows of 4 of the 9 tokens, experts, ALiBi, learned and rotary positions, and shared keys."""

WHOLE = {
    "bert": "earlier positions see the last one",
    "distilbert": "does not keep the keys and values",
    "bloom": "cannot be run alone",
    "gpt_bigcode": "cannot be run alone",
}
"""Models whose answer position cannot run alone, and why."""


@contextmanager
def tokens_in_last_layer(model: HookedModel) -> Iterator[list[int]]:
    """How many tokens a row has in each call of the last layer's output projection."""
    seen: list[int] = []

    def see(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(arguments[0].shape[-2])

    handle = model.module.get_submodule(model.structure.layers[-1].path).register_forward_pre_hook(see)
    try:
        yield seen
    finally:
        handle.remove()


def both(model: HookedModel, kind: str = "head", notes: list[str] | None = None) -> tuple[Tensor, Tensor]:
    """M with random values at the answer position of each unit, of all at once and of none, replayed and in full."""
    ids, targets = tiny_models.token_ids(BATCH, SEQ), tiny_models.token_ids(2, BATCH, seed=1)
    sets = [*alone(units_of(model, kind)), units_of(model, kind), ()]
    generator = torch.Generator().manual_seed(2)
    values = [
        torch.randn(BATCH, 1, port.group.count, port.group.width, generator=generator) for port in model.ports(kind)
    ]
    found = patched_rows(model, ids, *targets, values, sets, kind=kind, notes=notes)
    return found, patched_rows(model, ids, *targets, values, sets, kind=kind, engine="full")


@pytest.mark.parametrize("name", DECODING)
def test_one_position_gives_what_full_passes_give(name: str) -> None:
    notes: list[str] = []
    found, full = both(tiny_models.tiny_model(name), notes=notes)
    torch.testing.assert_close(found, full, rtol=1e-5, atol=ROUNDING)
    assert notes == []


@pytest.mark.parametrize("kind", ["block", "neuron"])
@pytest.mark.parametrize("name", ["gpt_neox", "llama", "opt"])
def test_other_units_are_replaced_at_one_position_as_well(name: str, kind: str) -> None:
    found, full = both(tiny_models.tiny_model(name), kind)
    torch.testing.assert_close(found, full, rtol=1e-5, atol=ROUNDING)


@pytest.mark.parametrize("name", WHOLE)
def test_where_one_position_does_not_stand_for_the_model_whole_prompts_run_and_it_is_said(name: str) -> None:
    notes: list[str] = []
    found, full = both(tiny_models.tiny_model(name), notes=notes)
    torch.testing.assert_close(found, full, rtol=1e-5, atol=ROUNDING)
    (note,) = (note for note in notes if "whole prompts" in note)
    assert note.startswith(f"{name}: interventions at the answer position ran over whole prompts, because")
    assert WHOLE[name] in note


def test_a_model_that_is_no_transformer_of_the_library_runs_whole_prompts() -> None:
    notes: list[str] = []
    ablated_metric(micro_model.one_layer(), micro_model.micro_task(), [0], "zero", at="answer", notes=notes)
    assert "keeps no keys and values (TypeError" in notes[0]


def test_a_layer_that_shows_earlier_positions_the_last_one_is_found_out() -> None:
    model = tiny_models.tiny_model()
    mlp = model.module.get_submodule("gpt_neox.layers.0.mlp")
    own = mlp.forward
    mlp.forward = lambda x: own(x + x.mean(1, keepdim=True))
    notes: list[str] = []
    found, full = both(model, notes=notes)
    torch.testing.assert_close(found, full, rtol=1e-5, atol=ROUNDING)
    assert "earlier positions see the last one in layer 1" in notes[0]


def test_a_model_that_decodes_wrongly_is_found_out() -> None:
    """As one whose rotary positions start at 0 in every pass."""
    model = tiny_models.tiny_model()
    rotary = model.module.get_submodule("gpt_neox.rotary_emb")
    own = rotary.forward
    rotary.forward = lambda x, position_ids: own(x, position_ids - position_ids.min())
    notes: list[str] = []
    found, full = both(model, notes=notes)
    torch.testing.assert_close(found, full, rtol=1e-5, atol=ROUNDING)
    assert "does not reproduce the clean pass" in notes[0]


def test_rows_are_one_token() -> None:
    with tokens_in_last_layer(model := tiny_models.tiny_model()) as seen:
        both(model)
    sets = len(units_of(model)) + 2
    # In the end each set's full pass; before, the proof that no position sees a later one runs twice, the record once.
    assert seen[-sets:] == [SEQ] * sets
    assert seen[:-sets].count(SEQ) == 3
    # A layer that rows start in is given the prompts joined, one token of each.
    assert set(seen) - {SEQ} <= set(range(1, BATCH + 1))


@pytest.mark.parametrize("is_alike", [True, False])
def test_how_layers_are_called_is_seen_on_a_few_prompts_where_that_is_the_same_for_all(
    monkeypatch: pytest.MonkeyPatch, is_alike: bool
) -> None:
    model, ids, rows = tiny_models.tiny_model(), tiny_models.token_ids(BATCH + 2, SEQ), list[tuple[int, ...]]()
    if not is_alike:
        monkeypatch.setattr(LayerRecord, "is_called_alike", False)
    layer = model.module.get_submodule(model.structure.layers[-1].path)
    layer.register_forward_pre_hook(lambda _, given: rows.append(tuple(given[0].shape[:2])))
    with torch.no_grad():
        clean = record_last_positions(model, ids, 3)
        whole = record_clean_pass(model, ids)
    # Two for the proof that no position sees a later one; the last is this test's own.
    assert rows[2:] == [(len(ids), SEQ), (FEW if is_alike else len(ids), 3), (len(ids), SEQ)]
    for found, expected in zip(clean.layers, whole.layers, strict=True):
        torch.testing.assert_close(found.hidden, expected.hidden[:, -3:], rtol=0, atol=0)
        (earlier,) = (given for given in found.keywords.values() if isinstance(given, EarlierPositions))
        assert earlier.layers[0].keys.shape[0] == len(ids)
        assert earlier.get_seq_length() == SEQ - 3


@pytest.mark.parametrize(
    ("arguments", "keywords", "expected"),
    [
        ((None, 3, "text"), {"mask": torch.zeros(4, 2)}, True),
        ((None, PerPrompt(torch.zeros(1, 2))), {}, True),
        ((None, (1, [PerPrompt(torch.zeros(4, 2))])), {}, False),
        ((None,), {"more": {"mask": PerPrompt(torch.zeros(4, 2))}}, False),
    ],
)
def test_whether_a_layer_is_called_alike(arguments: tuple[Any, ...], keywords: dict[str, Any], expected: bool) -> None:
    """Arguments with an entry for each prompt count, wherever they stand."""
    nothing = torch.zeros(4, 2, 1)
    assert LayerRecord(arguments, keywords, 0, nothing, nothing, None, 0, 0).is_called_alike == expected


def test_values_that_are_given_at_the_answer_position_are_repaired_there(model_and_task: Any) -> None:
    model, task = model_and_task
    z = model.activations(task.prompts(range(8)), "head")
    given = replace(z, groups=tuple(2 * group for group in z.groups)).answer_position()
    sets = [*alone(units_of(model)), units_of(model)]
    found = repaired_metric(model, task, given, sets)
    np.testing.assert_allclose(found, repaired_metric(model, task, given, sets, engine="full"), atol=ROUNDING, rtol=0)


@pytest.fixture(scope="module")
def model_and_task() -> tuple[HookedModel, Task]:
    model = tiny_models.tiny_model()
    return model, tiny_circuits.solvable_task(model)


def test_one_row_at_a_time_runs_whole_prompts() -> None:
    notes: list[str] = []
    found, full = both(replace(tiny_models.tiny_model(), batch_size=1), notes=notes)
    torch.testing.assert_close(found, full, rtol=0, atol=0)
    assert "one whole prompt at a time" in notes[0]


def test_keys_and_values_are_part_of_the_budget() -> None:
    model = tiny_models.tiny_model()
    ids, targets = tiny_models.token_ids(BATCH, SEQ), tiny_models.token_ids(2, BATCH, seed=1)
    values = [torch.zeros(BATCH, 1, port.group.count, port.group.width) for port in model.ports("head")]

    def run(memory: int | None) -> tuple[Tensor, list[int]]:
        with tokens_in_last_layer(model) as seen:
            return patched_rows(model, ids, *targets, values, alone(units_of(model)), memory=memory), seen

    expected, _ = run(None)
    least = record_bytes(model, SEQ) + row_bytes(model, SEQ)
    needed = record_bytes(model, SEQ) + kept_bytes(model, SEQ) + last_row_bytes(model, SEQ, 1)
    for memory in (max(least, needed), 4 * least):
        found, seen = run(memory)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=ROUNDING)
        assert 1 in seen
    with pytest.raises(MemoryBudgetError):
        run(least - 1)


ALIKE = 3


@pytest.fixture
def worthwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little it saves."""
    monkeypatch.setattr(sweep, "WORTHWHILE", 0)


def resampled(model: HookedModel, notes: list[str]) -> tuple[Tensor, Tensor]:
    """M with values from prompts that differ from the fourth token on, in each unit, in all and in none."""
    ids, targets = tiny_models.token_ids(BATCH, SEQ), tiny_models.token_ids(2, BATCH, seed=1)
    others = torch.cat([ids[:, :ALIKE], tiny_models.token_ids(BATCH, SEQ, seed=2)[:, ALIKE:]], 1)
    values, sets = read(model, others), [*alone(units_of(model)), units_of(model), ()]
    found = patched_rows(model, ids, *targets, values, sets, notes=notes, alike=ALIKE)
    return found, patched_rows(model, ids, *targets, values, sets, engine="full")


@pytest.mark.usefixtures("worthwhile")
@pytest.mark.parametrize("name", [*DECODING, *WHOLE])
def test_values_of_other_prompts_run_from_the_first_token_that_differs(name: str) -> None:
    """Where they do not stand for the model, as where every position sees all, whole prompts run; nobody need know."""
    notes: list[str] = []
    with tokens_in_last_layer(model := tiny_models.tiny_model(name)) as seen:
        found, full = resampled(model, notes)
    torch.testing.assert_close(found, full, rtol=1e-5, atol=ROUNDING)
    assert not [note for note in notes if "whole prompts" in note]
    assert SEQ - ALIKE in seen or name in WHOLE


def test_whole_prompts_run_where_little_would_be_saved() -> None:
    with tokens_in_last_layer(model := tiny_models.tiny_model()) as seen:
        found, full = resampled(model, [])
    torch.testing.assert_close(found, full, rtol=1e-5, atol=ROUNDING)
    assert SEQ - ALIKE not in seen


@pytest.mark.usefixtures("worthwhile")
@pytest.mark.parametrize("values", ["resample", "zero", "mean"])
def test_only_what_comes_from_the_counterfactual_is_alike(values: Any) -> None:
    """And only as far as the tokens of all prompts of a batch are: the second pair differs earlier."""
    model, ids = tiny_models.tiny_model(), tiny_models.token_ids(2, SEQ).tolist()
    pairs = [
        PromptPair(tuple(row), (*row[:at], row[at] ^ 1, *row[at + 1 :]), 3, 5, "one")
        for row, at in zip(ids, (5, ALIKE), strict=True)
    ]
    prompts, patch = Task("alike", tuple(pairs)).prompts(), Patch("head", alone(units_of(model)), values)
    with tokens_in_last_layer(model) as seen:
        found = model.patched(prompts, patch)
    full = model.patched(prompts, patch, engine="full")
    np.testing.assert_allclose(found, full, atol=ROUNDING, rtol=0)
    assert (SEQ - ALIKE in seen) == (values == "resample")


@pytest.mark.usefixtures("worthwhile")
def test_nothing_is_said_of_the_answer_position_where_all_were_asked_for() -> None:
    """Here only the last token differs, and the model shows earlier positions the last one."""
    model, ids = tiny_models.tiny_model("bert"), tiny_models.token_ids(1, SEQ).tolist()[0]
    prompts = Task("last", (PromptPair(tuple(ids), (*ids[:-1], ids[-1] ^ 1), 3, 5, "one"),)).prompts()
    for positions, said in (("all", 0), ("answer", 1)):
        work = Work(notes=[])
        model.patched(prompts, Patch("head", alone(units_of(model)), "resample", positions), work)
        assert sum("at the answer position" in note for note in work.notes) == said
