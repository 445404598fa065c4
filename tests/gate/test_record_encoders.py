"""Encoders, measured by a Python function of their output, from recording to verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import metric_functions
import numpy as np
import pytest
import tiny_circuits
import tiny_models
import torch
from metric_functions import MASK
from quick_recording import record
from torch import Tensor

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.core import metric as metric_module
from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.judge import judge
from circuitcheck.gate.measure import measure
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.load import hook_module

SPEC = MeasurementSpec(draws=200, margin=0.1)
PROMPTS, CLUSTERS = 48, 6
ENCODERS: dict[str, Callable[..., Tensor]] = {
    "bert": metric_functions.masked_difference,
    "bert-classifier": metric_functions.class_difference,
}
# Logits of about 5 in float32, summed in another order by other batch shapes.
ROUNDING = 2e-5


def encoder_task(module: torch.nn.Module) -> Task:
    """Random prompts of two lengths, masked in the middle, with what the model says there and what it says least."""
    generator = torch.Generator().manual_seed(5)
    pairs = []
    for number in range(PROMPTS):
        ids = torch.randint(MASK + 1, tiny_models.VOCABULARY, (1, 5 + number % 2), generator=generator)
        ids[0, 2] = MASK
        other = ids.clone()
        other[0, 1] = MASK + 1 + (ids[0, 1] - MASK) % (tiny_models.VOCABULARY - MASK - 1)
        with torch.no_grad():
            logits = module(ids).logits[0]
        logits = logits[2] if logits.dim() == 2 else logits
        clean, counterfactual = tuple(ids[0].tolist()), tuple(other[0].tolist())
        answer, foil = int(logits.argmax()), int(logits.argmin())
        pairs.append(PromptPair(clean, counterfactual, answer, foil, f"cluster {number % CLUSTERS}"))
    return Task("masked", tuple(pairs))


@pytest.fixture(scope="module", params=ENCODERS)
def reference(request: pytest.FixtureRequest) -> HookedModel:
    module = tiny_models.tiny_module(request.param)
    return hook_module(module, name=request.param, metric=ENCODERS[request.param])


@pytest.fixture(scope="module")
def task(reference: HookedModel) -> Task:
    return encoder_task(reference.module)


@pytest.fixture(scope="module")
def baseline(reference: HookedModel, task: Task) -> Baseline:
    return record(reference, task, SPEC)


def by_hand(reference: HookedModel, task: Task, kind: str) -> np.ndarray:
    """Importances with one full pass for each head and prompt: plain hooks, indices, and the function itself."""
    module: Any = reference.module
    function = reference.quantity.function
    dense = [layer.attention.output.dense for layer in module.bert.encoder.layer]

    def run(ids: tuple[int, ...], pair: PromptPair, hooks: dict[int, Callable[..., Any]]) -> float:
        handles = [dense[layer].register_forward_pre_hook(hook) for layer, hook in hooks.items()]
        tensor = torch.tensor([ids])
        with torch.no_grad():
            output = module(tensor)
        for handle in handles:
            handle.remove()
        return float(function(output, tensor, torch.tensor([pair.answer]), torch.tensor([pair.foil]))[0])

    def z_of(ids: tuple[int, ...], pair: PromptPair) -> dict[int, Tensor]:
        seen: dict[int, Tensor] = {}

        def reader(layer: int) -> Callable[..., None]:
            def read(_: Any, arguments: tuple[Tensor, ...]) -> None:
                seen[layer] = arguments[0][0].clone()

            return read

        run(ids, pair, {layer: reader(layer) for layer in range(2)})
        return seen

    effects = np.empty((8, len(task.pairs)))
    for column, pair in enumerate(task.pairs):
        clean, other = run(pair.clean, pair, {}), z_of(pair.counterfactual, pair)
        for layer in range(2):
            for head in range(4):
                columns = range(8 * head, 8 * head + 8)

                def overwrite(
                    _: Any, arguments: tuple[Tensor, ...], layer: int = layer, columns: range = columns
                ) -> tuple[Tensor]:
                    changed = arguments[0].clone()
                    for place in columns:
                        changed[0, :, place] = other[layer][:, place] if kind == "resample" else 0  # noqa: B023
                    return (changed,)

                effects[4 * layer + head, column] = clean - run(pair.clean, pair, {layer: overwrite})
    return effects


@pytest.mark.parametrize("kind", ["resample", "zero"])
def test_importances_equal_full_passes_by_hand(
    reference: HookedModel, task: Task, baseline: Baseline, kind: str
) -> None:
    expected = by_hand(reference, task, kind)[:, list(baseline.solved)]
    assert np.abs(expected).mean() > 100 * ROUNDING
    np.testing.assert_allclose(baseline.effects(kind), expected, atol=ROUNDING, rtol=0)


def test_what_is_recorded_says_how_it_was_measured(reference: HookedModel, baseline: Baseline) -> None:
    name = f"metric_functions:{ENCODERS[reference.name].__name__}"
    assert baseline.spec == replace(SPEC, metric=name)
    assert baseline.incompetence is None
    assert all(baseline.metric[place] > SPEC.margin for place in baseline.solved)
    note = f"every intervention ran as a full pass, because {name} is a function of the model's whole output."
    assert baseline.notes == (f"{reference.name}: {note}",)


def test_a_copy_passes_and_a_scaled_head_fails(reference: HookedModel, task: Task, baseline: Baseline) -> None:
    same = judge(measure(tiny_circuits.copy_of(reference), baseline))
    assert str(same.word) == "PASS", same
    head = tiny_circuits.most_important(baseline.importance("resample"), list(baseline.layout.units), 1)[0]
    faulty = judge(measure(tiny_circuits.scale_head(reference, 1, head, -2.0), baseline))
    assert str(faulty.word) == "FAIL"


def test_a_saved_baselines_function_is_the_users_own_and_never_one_that_the_file_names(
    reference: HookedModel, baseline: Baseline, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = Baseline.load(baseline.save(tmp_path)[0])
    name = baseline.spec.metric
    hooked = hook_module(reference.module, name=reference.name, metric=name)  # the user names it, so it is imported
    monkeypatch.setattr(metric_module, "import_module", lambda path: pytest.fail(f"{path} was imported"))
    with pytest.raises(ConfigurationError, match=r"what a file names is never imported"):
        measure(hook_module(reference.module, name=reference.name), loaded)
    circuit = measure(hooked, loaded).circuit
    assert circuit is not None
    assert circuit.profile_distance.value < 1e-3
    assert circuit.drift_largest.value == 0


def test_gradients_are_those_of_the_function(reference: HookedModel, task: Task, baseline: Baseline) -> None:
    """The sum of the metric's change to first order, from a small step along the gradient of one prompt."""
    place = baseline.z.index[0]
    pair, layer = task.pairs[place], 1
    gradient = torch.from_numpy(baseline.gradient.rows([place])[layer][0]).flatten(-2)
    module: Any = reference.module
    dense = module.bert.encoder.layer[layer].attention.output.dense
    ids, answer, foil = torch.tensor([pair.clean]), torch.tensor([pair.answer]), torch.tensor([pair.foil])
    values = []
    for step in (1e-2, -1e-2):
        handle = dense.register_forward_pre_hook(lambda _, given, step=step: (given[0] + step * gradient,))
        with torch.no_grad():
            values.append(float(reference.quantity.function(module(ids), ids, answer, foil)[0]))
        handle.remove()
    # Rounding of logits of about 5, over the step, is 1e-4 of a slope of about 1; curvature adds the step's square.
    assert (values[0] - values[1]) / 2e-2 == pytest.approx(float((gradient**2).sum()), rel=5e-3)


# --- functions that have no name to be found by ---


def test_a_local_function_is_passed_with_the_candidate(task: Task, reference: HookedModel) -> None:
    own = ENCODERS[reference.name]

    def local(output: Any, ids: Tensor, answer: Tensor, foil: Tensor) -> Tensor:
        return own(output, ids, answer, foil)

    recorded = record(hook_module(reference.module, name=reference.name, metric=local), task, SPEC)
    assert recorded.spec.metric.endswith(":test_a_local_function_is_passed_with_the_candidate.<locals>.local")
    assert measure(hook_module(reference.module, metric=local), recorded).circuit is not None
    with pytest.raises(ConfigurationError, match=r"what a file names is never imported.*hook_module\(model, metric="):
        measure(hook_module(reference.module), recorded)


def test_two_metrics_are_one_too_many(task: Task, reference: HookedModel) -> None:
    with pytest.raises(ConfigurationError, match=r"was hooked with the metric metric_functions:.*; leave out one"):
        record(reference, task, replace(SPEC, metric="log_probability"))
    named = replace(SPEC, metric=reference.quantity.name)
    assert record(reference, task, named).spec == named


def test_an_encoder_without_a_function_is_told_to_bring_one() -> None:
    model = tiny_models.tiny_model("bert-classifier")
    with pytest.raises(ConfigurationError, match=r"no unembedding.*give a metric of your own"):
        record(model, encoder_task(model.module), SPEC)


def test_a_function_without_gradient_is_refused() -> None:
    model = tiny_models.tiny_model()
    task = tiny_circuits.solvable_task(model)
    with pytest.raises(ConfigurationError, match="without_gradient gives values without a gradient"):
        record(model, task, MeasurementSpec(metric="metric_functions:without_gradient"))


# --- the same through a decoder: a function, the difference that has a name, and the log-probability ---


def test_a_function_of_a_decoder_measures_what_the_name_does() -> None:
    model = tiny_models.tiny_model("gemma2")
    task = tiny_circuits.solvable_task(model)
    named = record(model, task, MeasurementSpec(draws=200))
    own = record(model, task, MeasurementSpec(draws=200, metric="metric_functions:last_difference"))
    for kind in ("resample", "mean", "zero"):
        np.testing.assert_allclose(own.ablated[kind], named.ablated[kind], atol=ROUNDING, rtol=0)
    for ours, theirs in zip(own.gradient.groups, named.gradient.groups, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=ROUNDING, rtol=0)
    assert named.notes == ()


def test_log_probability_is_solved_by_preference() -> None:
    """No log-probability is above 0, so what counts is whether the answer is preferred to the foil."""
    model = tiny_models.tiny_model()
    solvable, unsolvable = tiny_circuits.solvable_task(model), tiny_circuits.unsolvable_task(model)
    task = Task("half", (*solvable.pairs[:6], *unsolvable.pairs[6:]))
    spec = MeasurementSpec(draws=200, metric="log_probability")
    baseline = record(model, task, spec)
    assert (baseline.metric < 0).all()
    assert baseline.solved == tuple(range(6))
    logits = [model.module(torch.tensor([pair.clean])).logits[0, -1].detach() for pair in task.pairs]
    expected = [float(values.log_softmax(-1)[pair.answer]) for values, pair in zip(logits, task.pairs, strict=True)]
    np.testing.assert_allclose(baseline.metric, expected, atol=ROUNDING, rtol=0)
    circuit = measure(model, baseline).circuit
    assert circuit is not None
    assert circuit.behaviour_kept.value == 1
    assert circuit.metric_ref.value < 0
    assert circuit.metric_change.value == circuit.repair.damage.value == 0
    assert circuit.repair.diagnosis == "no damage"
