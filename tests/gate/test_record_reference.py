"""Recording a reference: right numbers, honest about what it cannot say, and the model as it was."""

from __future__ import annotations

from dataclasses import replace

import micro_model
import numpy as np
import pytest
import tiny_circuits
import tiny_models
import torch
from quick_recording import record
from torch import nn

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.core.errors import ModelError
from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.measure import measure
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.fingerprint import fingerprint_module


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return tiny_models.tiny_model()


@pytest.fixture(scope="module")
def task(model) -> Task:
    return tiny_circuits.solvable_task(model)


@pytest.fixture(scope="module")
def recorded(model, task) -> Baseline:
    return record(model, task, reason="a test")


# --- a second computation: one prompt at a time, one plain hook, indices instead of reshapes ---


def projections(model: HookedModel) -> list[nn.Module]:
    return [layer.attention.dense for layer in model.module.gpt_neox.layers]


def z_by_hand(model: HookedModel, ids: tuple[int, ...]) -> list[torch.Tensor]:
    """`[seq, d_model]` of every layer."""
    seen = []
    handles = [
        module.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0][0].clone()))
        for module in projections(model)
    ]
    with torch.no_grad():
        model.module(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return seen


def metric_by_hand(model: HookedModel, pair: PromptPair, layer: int, head: int, value: torch.Tensor | None) -> float:
    """The difference of the model's own logits with one head's columns overwritten by `value`, `[seq, d_model]`."""
    columns = range(head * 8, head * 8 + 8)  # d_model 32, four heads

    def overwrite(_, arguments):
        changed = arguments[0].clone()
        for column in columns:
            changed[0, :, column] = value[:, column]
        return (changed,)

    handle = projections(model)[layer].register_forward_pre_hook(overwrite) if value is not None else None
    with torch.no_grad():
        logits = model.module(torch.tensor([pair.clean])).logits[0, -1]
    if handle is not None:
        handle.remove()
    return float(logits[pair.answer] - logits[pair.foil])


def mean_by_hand(model: HookedModel, task: Task, layer: int, length: int) -> torch.Tensor:
    """Mean z of the last `length` positions, counted back from the answer, over clean and counterfactual prompts."""
    prompts = [ids for pair in task.pairs for ids in (pair.clean, pair.counterfactual)]
    rows = [z_by_hand(model, ids)[layer] for ids in prompts]
    return torch.stack(
        [torch.stack([row[-back] for row in rows if len(row) >= back]).mean(0) for back in range(length, 0, -1)]
    )


def importance_by_hand(model: HookedModel, task: Task, kind: str) -> np.ndarray:
    result = np.empty((8, len(task.pairs)))
    for layer in range(2):
        means = {length: mean_by_hand(model, task, layer, length) for length in (5, 6)} if kind == "mean" else {}
        for column, pair in enumerate(task.pairs):
            if kind == "zero":
                value = torch.zeros(len(pair.clean), 32)
            elif kind == "resample":
                value = z_by_hand(model, pair.counterfactual)[layer]
            else:
                value = means[len(pair.clean)]
            clean = metric_by_hand(model, pair, layer, 0, None)
            for head in range(4):
                result[4 * layer + head, column] = clean - metric_by_hand(model, pair, layer, head, value)
    return result


# Logits of about 10 in float32, summed in another order by other batch shapes: some units in the sixth digit.
ROUNDING = 2e-5


@pytest.mark.parametrize("kind", ["zero", "resample", "mean"])
def test_importances_equal_a_slow_computation_with_plain_hooks(recorded, model, task, kind):
    expected = importance_by_hand(model, task, kind)
    assert np.abs(expected).mean() > 0.02  # a thousand times the rounding: equality says something
    np.testing.assert_allclose(recorded.effects(kind), expected, atol=ROUNDING, rtol=0)
    np.testing.assert_allclose(recorded.importance(kind), expected.mean(1), atol=ROUNDING, rtol=0)


def test_metric_and_z_equal_the_same(recorded, model, task):
    by_hand = [metric_by_hand(model, pair, 0, 0, None) for pair in task.pairs]
    np.testing.assert_allclose(recorded.metric, by_hand, atol=ROUNDING, rtol=0)
    flipped = [replace(pair, clean=pair.counterfactual) for pair in task.pairs]
    by_hand = [metric_by_hand(model, pair, 0, 0, None) for pair in flipped]
    np.testing.assert_allclose(recorded.counterfactual, by_hand, atol=ROUNDING, rtol=0)
    for place, pair in enumerate(task.pairs):
        for layer, z in enumerate(z_by_hand(model, pair.clean)):
            kept = recorded.z.rows([place])[layer][0]
            # z is a mean of values of about 1, weighted by a softmax: some units in the seventh digit.
            np.testing.assert_allclose(kept.reshape(len(kept), -1), z, atol=2e-6, rtol=0)


def test_gradient_is_how_the_metric_follows_z(recorded, model, task):
    """Central differences along the gradient itself, in double precision, against its squared norm."""
    double = replace(tiny_circuits.copy_of(model), module=tiny_models.tiny_module("gpt_neox").double())
    pair = task.pairs[3]
    for layer in range(2):
        gradient = torch.from_numpy(recorded.gradient.rows([3])[layer][0]).double()
        clean = z_by_hand(double, pair.clean)[layer]
        for head in range(4):
            along = torch.zeros_like(clean)
            along[:, head * 8 : head * 8 + 8] = gradient[:, head]
            step = 1e-2
            up = metric_by_hand(double, pair, layer, head, clean + step * along)
            down = metric_by_hand(double, pair, layer, head, clean - step * along)
            # The step's own error is of its square, 1e-4, times the curvature; rounding (the softmax is float32 in
            # any case) is 1e-7 over the step.
            assert (up - down) / (2 * step) == pytest.approx(float((gradient[:, head] ** 2).sum()), rel=1e-3)


def test_what_is_recorded_about_the_rest(recorded, model, task):
    assert recorded.model == "gpt_neox"
    assert recorded.architecture == {"class": "GPTNeoXForCausalLM", "n_layers": 2, "n_heads": 4, "d_head": 8}
    assert recorded.fingerprints == {"weights": fingerprint_module(model.module), "tokenizer": "none"}
    assert recorded.solved == tuple(range(8))
    assert recorded.incompetence is None
    assert recorded.reason == "a test"
    assert recorded.task is task
    assert recorded.layout == model.layout("head")
    assert recorded.measured == recorded.layout.units == tuple((layer, head) for layer in range(2) for head in range(4))
    assert 0 < recorded.ceiling <= 1


def test_only_the_part_of_the_prompts_keeps_z(model, task):
    baseline = record(model, task, MeasurementSpec(part=5))
    assert baseline.z.index == baseline.gradient.index == (0, 1, 2, 3, 4)
    assert baseline.ablated["zero"].shape == (8, 8)


def test_answer_position_alone_can_be_kept(model, task, recorded):
    baseline = record(model, task, MeasurementSpec(positions="answer"))
    assert baseline.z.lengths == baseline.gradient.lengths == (1,) * 8
    assert baseline.z.groups[0].shape == (8, 4, 8)
    for place in range(8):
        assert np.array_equal(baseline.z.rows([place])[1][0, 0], recorded.z.rows([place])[1][0, -1])


def test_prompts_within_the_margin_are_set_aside(model, task, recorded):
    margin = float(np.sort(recorded.metric)[2])
    baseline = record(model, task, MeasurementSpec(margin=margin))
    assert len(baseline.solved) == 5  # all but the three smallest: the margin itself is not beyond the margin
    assert all(baseline.metric[place] > margin for place in baseline.solved)
    assert baseline.z.index == baseline.solved


# --- the task is not solved ---


def test_unsolved_task_is_recorded_as_such_and_nothing_of_it_is_measured(model, tmp_path):
    baseline = record(model, tiny_circuits.unsolvable_task(model))
    assert baseline.solved == ()
    assert baseline.incompetence.startswith("the reference solves 0 of 8 prompts (logit difference above 0.5)")
    assert {kind: values.shape for kind, values in baseline.ablated.items()} == dict.fromkeys(
        ("resample", "mean", "zero"), (8, 0)
    )
    assert (baseline.z.index, baseline.ceiling, baseline.noise_floor) == ((), None, {})
    assert Baseline.load(baseline.save(tmp_path)[0]).incompetence == baseline.incompetence


@pytest.mark.parametrize("solved", [1, 3])
def test_task_that_is_solved_in_small_part_can_be_recorded_and_saved(model, task, solved, tmp_path):
    unsolved = tiny_circuits.unsolvable_task(model)
    mixed = Task("mixed", (*task.pairs[:solved], *unsolved.pairs[solved:]))
    baseline = record(model, mixed)
    assert len(baseline.solved) == solved
    assert f"solves {solved} of 8" in baseline.incompetence
    assert (baseline.ceiling is None) == (solved == 1)  # one prompt cannot be halved
    assert Baseline.load(baseline.save(tmp_path)[0]).solved == baseline.solved


def test_too_few_clusters_are_not_competent(model, task):
    alike = Task("alike", tuple(replace(pair, cluster=f"c{number % 4}") for number, pair in enumerate(task.pairs)))
    baseline = record(model, alike)
    assert baseline.incompetence == "the solved prompts come from 4 template cluster(s); intervals need at least 5"
    assert measure(model, baseline).circuit is None


# --- the reference is broken ---


def test_nan_in_the_weights_is_refused():
    model = tiny_models.tiny_model()
    task = tiny_circuits.solvable_task(model)
    model.module.gpt_neox.layers[0].mlp.dense_h_to_4h.weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match="reference gpt_neox: its logits on task 'tiny' are not finite"):
        record(model, task)


def test_nan_that_only_some_prompts_reach_is_refused():
    """The proof looks at two prompts; this word is in neither."""
    model = tiny_models.tiny_model()
    task = tiny_circuits.solvable_task(model)
    probed = {token for pair in task.pairs[:4] for token in pair.clean}
    word = next(token for pair in task.pairs for token in pair.clean if token not in probed)
    model.module.gpt_neox.embed_in.weight.data[word] = float("nan")
    with pytest.raises(ModelError, match="reference gpt_neox: its logits on task 'tiny' are not finite"):
        record(model, task)


class DividesByItsHeads(nn.Module):
    """A projection whose output is NaN for a prompt on which one head is zero everywhere."""

    def __init__(self, inner: nn.Module, head: int) -> None:
        super().__init__()
        self.inner, self.head = inner, head

    def forward(self, z):
        own = z[..., 2 * self.head : 2 * self.head + 2]
        norm = own.flatten(1).norm(dim=1)[:, None, None]
        return self.inner(z) + norm / norm


def test_nan_under_ablation_is_refused(monkeypatch):
    model = micro_model.one_layer()
    model.module.layers[0].attention.project = DividesByItsHeads(model.module.layers[0].attention.project, 1)
    # The proofs zero whole layers on their own prompts, and would refuse it already; here they are to miss it.
    monkeypatch.setattr(HookedModel, "prove", lambda *_: None)
    pairs = tuple(PromptPair((2, token), (1, token), 0, 3, f"c{token}") for token in range(4))
    with pytest.raises(ModelError, match="reference micro: its logits under zero ablation on task"):
        record(model, Task("micro", pairs), MeasurementSpec(margin=0))


def test_task_in_which_no_head_matters_is_refused():
    """Counterfactuals that equal the clean prompts: resampling changes nothing, and nothing could be compared."""
    model = tiny_models.tiny_model()
    task = tiny_circuits.solvable_task(model)
    same = Task("same", tuple(replace(pair, counterfactual=pair.clean) for pair in task.pairs))
    with pytest.raises(ModelError, match=r"profile_distance of the reference against itself is not finite.* 0 logits"):
        record(model, same)


# --- the model is left alone ---


@pytest.mark.parametrize("training", [False, True])
def test_model_is_left_as_it_was(training):
    model = tiny_models.tiny_model()
    task = tiny_circuits.solvable_task(model)
    model.module.train(training)
    before = fingerprint_module(model.module)
    rows = []
    record(model, task, advance=rows.append)
    assert (
        sum(rows) == 3 * 8 * 8
    )  # ablation kinds, heads, prompts: progress counts every row, and the noise floor's not
    assert fingerprint_module(model.module) == before
    assert all(part.training is training for part in model.module.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.module.parameters())
    for part in model.module.modules():
        hooks = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
        assert not any(hooks)
