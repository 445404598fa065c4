"""Screening measures some units, says which, and says what it may have missed."""

from __future__ import annotations

import micro_model
import numpy as np
import pytest
import tiny_models
import torch
from patches import ablated_metric, alone, patched_rows, units_of

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.core.runtime import Work
from circuitcheck.core.specification import ABLATIONS, Ablation, MeasurementSpec
from circuitcheck.gate.screen import (
    LEAST_SAMPLE,
    Estimates,
    Screened,
    choose,
    estimate_importance,
    screened_metric,
)
from circuitcheck.runtimes.pytorch.engine.packing import row_bytes
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.stats.missed import CONFIDENCE, missed_units

PROMPTS, SEQ = 6, 7


def task() -> Task:
    """Random prompts of two lengths."""
    clean, other = tiny_models.token_ids(PROMPTS, SEQ), tiny_models.token_ids(PROMPTS, SEQ, seed=1)
    lengths = [SEQ - number % 2 for number in range(PROMPTS)]
    return Task(
        "random",
        tuple(
            PromptPair(tuple(clean[number, :length].tolist()), tuple(other[number, :length].tolist()), 3, 5, "one")
            for number, length in enumerate(lengths)
        ),
    )


def many_heads() -> HookedModel:
    return tiny_models.tiny_model("gpt_neox", num_hidden_layers=4, num_attention_heads=16, hidden_size=64)


def estimated(
    model: HookedModel, pairs: Task, kind: Ablation, index: list[int] | None = None, memory: int | None = None
) -> Estimates:
    return estimate_importance(model, pairs.prompts(index), MeasurementSpec(ablation=kind), Work(memory))


def screened_by(
    model: HookedModel, pairs: Task, kind: Ablation, index: list[int] | None = None, work: Work | None = None
) -> Screened:
    return screened_metric(model, pairs.prompts(index), MeasurementSpec(ablation=kind), work or Work())


@pytest.mark.parametrize("kind", ABLATIONS)
def test_where_the_model_is_linear_both_estimates_are_exact(kind: Ablation) -> None:
    model, linear = micro_model.two_layers(), micro_model.micro_task()
    exact = (model.metric(linear.prompts()) - ablated_metric(model, linear, range(2), kind)).mean(1)
    estimates = estimated(model, linear, kind)
    # All numbers are small binary fractions; the thirds on the way are not.
    np.testing.assert_allclose(estimates.first_order, exact, atol=1e-6)
    np.testing.assert_allclose(estimates.integrated, exact, atol=1e-6)
    np.testing.assert_array_equal(estimates.clean, model.metric(linear.prompts()))


def test_the_first_order_is_the_slope_of_the_metric() -> None:
    """Held against a small step towards the counterfactual in one head at a time."""
    model, pairs = tiny_models.tiny_model("llama"), task()
    model.module.double()
    prompts = pairs.prompts([0, 2])
    [batch] = prompts.batches()
    ids, answer, foil = (torch.from_numpy(array) for array in (batch.clean, batch.answer, batch.foil))
    values = model.replacements(prompts, Patch("head", (), "resample")).rows([0, 2])
    z = model.activations(prompts, "head").rows([0, 2])
    step = 1e-3
    near = [
        torch.from_numpy(own + step * (value.astype(np.float64) - own)) for own, value in zip(z, values, strict=True)
    ]
    moved = patched_rows(model, ids, answer, foil, near, [(), *alone(units_of(model))]).double().numpy()
    slopes = ((moved[0] - moved[1:]) / step).mean(1)
    estimates = estimated(model, pairs, "resample", [0, 2])
    # The metric is read in float32, so a difference of two over 1e-3 is good to about 1e-3 of it.
    np.testing.assert_allclose(estimates.first_order, slopes, atol=5e-3 * np.abs(slopes).max())


@pytest.mark.parametrize("kind", ABLATIONS)
def test_what_is_measured_is_measured_exactly(kind: Ablation) -> None:
    model, pairs = many_heads(), task()
    index = [4, 1, 2, 0]
    screened = screened_by(model, pairs, kind, index)
    assert len(screened.top) == 16
    assert len(screened.sample) == LEAST_SAMPLE
    assert len(set(screened.measured)) == 36
    assert screened.unmeasured == 64 - 36
    exact = ablated_metric(model, pairs, index, kind)
    rows = [units_of(model).index(unit) for unit in screened.measured]
    # Other batch shapes round sums in another order.
    np.testing.assert_allclose(screened.metric, exact[rows], rtol=1e-5, atol=1e-5 * np.abs(exact).max())
    importance = (model.metric(pairs.prompts(index)) - exact[rows]).mean(1)
    np.testing.assert_allclose(screened.importance, importance, atol=1e-5 * np.abs(exact).max())


def test_the_ranking_finds_most_important_units() -> None:
    model, pairs = many_heads(), task()
    ablated = ablated_metric(model, pairs, range(PROMPTS), "resample")
    exact = np.abs((model.metric(pairs.prompts()) - ablated).mean(1))
    score = estimated(model, pairs, "resample").score
    best = set(np.argsort(-exact)[:8])
    # By chance a quarter of them would be among the sixteen that score highest.
    assert len(best & set(np.argsort(-score)[:16])) >= 6


def test_the_report_is_told_what_was_not_measured() -> None:
    notes: list[str] = []
    screened = screened_by(many_heads(), task(), "zero", work=Work(notes=notes))
    assert notes == [screened.note]
    assert "36 of 64 heads were measured, 16 by their gradient and 20 at random" in notes[0]
    assert "95% interval" in notes[0]


def test_a_model_of_few_units_is_measured_whole() -> None:
    model, pairs = tiny_models.tiny_model("llama"), task()
    screened = screened_by(model, pairs, "resample")
    assert sorted(screened.measured) == units_of(model)
    assert (screened.unmeasured, screened.missed, screened.interval) == (0, 0.0, (0.0, 0.0))


def test_progress_counts_measured_rows() -> None:
    finished: list[int] = []
    screened = screened_by(many_heads(), task(), "zero", work=Work(advance=finished.append))
    assert sum(finished) == len(screened.measured) * PROMPTS


def test_backward_passes_keep_to_the_memory_budget() -> None:
    """A budget of one prompt gives what all prompts together give."""
    model, pairs = many_heads(), task()
    together = estimated(model, pairs, "mean")
    single = estimated(model, pairs, "mean", memory=row_bytes(model, SEQ))
    # Other batch shapes round sums in another order.
    np.testing.assert_allclose(single.first_order, together.first_order, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(single.integrated, together.integrated, rtol=1e-4, atol=1e-5)


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_models.tiny_model("llama")
    screened_by(model, task(), "resample")
    assert all(parameter.grad is None for parameter in model.module.parameters())
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in model.module.modules())


@pytest.mark.parametrize(("top", "sample", "index"), [(0, 0.1, [0]), (1.5, 0.1, [0]), (0.5, 0, [0]), (0.5, 0.5, [])])
def test_shares_out_of_range(top: float, sample: float, index: list[int]) -> None:
    with pytest.raises(ConfigurationError, match="shares above 0"):
        screened_metric(
            many_heads(), task().prompts(index), MeasurementSpec(), Work(), top_share=top, sample_share=sample
        )


def test_the_choice_is_the_top_and_a_sample_of_the_rest() -> None:
    units = [(group, unit) for group in range(20) for unit in range(10)]
    score = np.arange(200.0)
    top, sample = choose(units, score, 0.05, 0.2, seed=0)
    assert top == tuple(units[::-1][:10])
    assert len(sample) == 40
    assert not set(top) & set(sample)
    assert choose(units, score, 0.05, 0.2, seed=0)[1] == sample
    assert choose(units, score, 0.05, 0.2, seed=1)[1] != sample


def test_what_scores_next_to_nothing_is_left_to_the_sample() -> None:
    units = [(0, unit) for unit in range(1000)]
    score = np.full(1000, 0.049)
    score[[3, 700, 41]] = 1.0, 0.8, 0.05
    top, sample = choose(units, score, 0.25, 0.04, seed=0)
    assert top == ((0, 3), (0, 700), (0, 41))
    assert len(sample) == 40
    score[5] = np.nan  # says nothing of what others score
    assert choose(units, score, 0.25, 0.04, seed=0)[0] == ((0, 5), *top)
    assert choose(units, np.zeros(1000), 0.25, 0.04, seed=0)[0] == tuple(units[:250]), "all are alike"


def test_a_unit_whose_estimate_is_not_a_number_is_measured() -> None:
    units = [(0, unit) for unit in range(100)]
    score = np.ones(100)
    score[37] = np.nan
    assert units[37] in choose(units, score, 0.01, 0.1, seed=0)[0]


@pytest.mark.parametrize(
    ("hits", "sampled", "unmeasured", "expected"),
    [
        # Of 6 units 3 are drawn and none is important: with 3 left that are, such a draw has the probability
        # 1 / C(6, 3) = 0.05, above the 0.025 of one side.
        (0, 3, 3, (0.0, 0.0, 3.0)),
        # Of 60 units 30 are drawn, and none of them is important. With k left that are, that has the probability
        # 30 / 60 * 29 / 59 * ... of k factors: 0.026 for k = 5, and 0.012 for k = 6.
        (0, 30, 30, (0.0, 0.0, 5.0)),
        (30, 30, 30, (30.0, 25.0, 30.0)),
        (0, 20, 0, (0.0, 0.0, 0.0)),
    ],
)
def test_missed_units_by_hand(hits: int, sampled: int, unmeasured: int, expected: tuple[float, float, float]) -> None:
    missed, interval = missed_units(hits, sampled, unmeasured)
    np.testing.assert_allclose((missed, *interval), expected, atol=1e-12)


@pytest.mark.parametrize("important", [0, 3, 30, 150])
def test_the_interval_holds_the_truth_as_often_as_it_says(important: int) -> None:
    generator = np.random.default_rng(0)
    units = np.arange(200) < important
    held = 0
    for _ in range(500):
        drawn = generator.permutation(units)
        low, high = missed_units(int(drawn[:40].sum()), 40, 160)[1]
        held += low <= drawn[40:].sum() <= high
    # 500 draws at 95 % have a standard error of one percentage point; two of them are allowed for.
    assert held / 500 >= CONFIDENCE - 0.02


def test_screening_on_a_model_in_half_precision() -> None:
    model = tiny_models.tiny_model("gpt_neox")
    model.module.to(torch.bfloat16)
    screened = screened_by(model, task(), "resample")
    assert np.isfinite(screened.estimates.score).all()
