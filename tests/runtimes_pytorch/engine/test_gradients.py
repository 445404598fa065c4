"""Gradients of the metric by units, against pencil and paper and against central differences."""

from __future__ import annotations

import micro_model
import numpy as np
import pytest
import tiny_circuits
import tiny_models
import torch
from patches import edited, read
from torch import Tensor

from circuitcheck.core.activations import Activations
from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import Prompts, Task
from circuitcheck.runtimes.pytorch.forward import metric_of
from circuitcheck.runtimes.pytorch.hooked import HookedModel

TASK = micro_model.micro_task()

NONE = [[0.0, 0.0], [0.0, 0.0]]


def only(prompt: int) -> Prompts:
    return TASK.prompts([prompt])


def zero(model: HookedModel, prompts: Prompts, kind: str) -> Activations:
    return model.replacements(prompts, Patch(kind, (), "zero"))


# --- by hand ---------------------------------------------------------------------------------------------------------

"""One layer with an MLP, prompt (2, 0): u = (1, -1), and at the last position r = (25/4, 2) in front of the MLP, which
adds r * r / 4. So m = u . (r + r * r / 4) - 1/2, and its gradient by r is g = u * (1 + r / 2) = (33/8, -2).

What the MLP adds has the gradient u, what the attention adds has g, and the heads have W0' g = (33/4, -2) and
W1' g = (-1, 33/8). With the MLP's output held, what the attention adds has u.
"""


def test_total_gradient_of_blocks() -> None:
    metric, gradient = micro_model.one_layer_with_mlp().gradient(only(0), "block")
    attention, mlp = gradient.groups
    assert metric.tolist() == [801 / 64]
    assert attention.tolist() == [[[0, 0]], [[33 / 8, -2]]]
    assert mlp.tolist() == [[[0, 0]], [[1, -1]]]


def test_total_gradient_of_heads_goes_through_the_mlp() -> None:
    for held in (False, True):
        # Whether heads are held makes no difference here: there is no later one.
        [heads] = micro_model.one_layer_with_mlp().gradient(only(0), "head", held=held)[1].groups
        assert heads.tolist() == [NONE, [[33 / 4, -2], [-1, 33 / 8]]]


def test_held_gradient_of_blocks_is_what_goes_past_all_others() -> None:
    """Also where no values are given: all blocks then keep their own."""
    model = micro_model.one_layer_with_mlp()
    for at in (None, model.activations(only(0), "block")):
        metric, gradient = model.gradient(only(0), "block", at, held=True)
        assert metric.tolist() == [801 / 64]
        assert [group.tolist() for group in gradient.groups] == [[[[0, 0]], [[1, -1]]]] * 2


def test_gradient_of_blocks_at_given_values() -> None:
    """With an attention that adds nothing r = (1, 0), and g = (3/2, -1); with an MLP that adds nothing m = 1/2."""
    model = micro_model.one_layer_with_mlp()
    metric, gradient = model.gradient(only(0), "block", zero(model, only(0), "block"))
    attention, mlp = gradient.groups
    assert metric.tolist() == [0.5]
    assert attention.tolist() == [[[0, 0]], [[3 / 2, -1]]]
    assert mlp.tolist() == [[[0, 0]], [[1, -1]]]


@pytest.mark.parametrize("held", [True, False])
def test_gradient_of_heads_at_given_values(held: bool) -> None:
    """Without heads r = (1, 0) + bias = (5/4, -1/2), so g = (13/8, -3/4), and r + r * r / 4 = (105/64, -7/16)."""
    model = micro_model.one_layer_with_mlp()
    metric, gradient = model.gradient(only(0), "head", zero(model, only(0), "head"), held=held)
    assert metric.tolist() == [105 / 64 + 28 / 64 - 32 / 64]
    assert gradient.groups[0].tolist() == [NONE, [[13 / 4, -3 / 4], [-3 / 8, 13 / 8]]]


@pytest.mark.parametrize("given", [True, False])
def test_held_gradient_of_two_layers_of_heads(given: bool) -> None:
    """In front of the second layer W0' u and W1' u of the first layer, as if there were no second one: its heads keep
    their values. The total is another (test_micro_model_by_hand).
    """
    model = micro_model.two_layers()
    at = model.activations(only(0), "head") if given else None
    first, second = model.gradient(only(0), "head", at, held=True)[1].groups
    assert first.tolist() == [NONE, [[2, -1], [-0.5, 1]]]
    assert second.tolist() == [NONE, [[1, 1], [-1, 0]]]


# --- by central differences ------------------------------------------------------------------------------------------

STEP = 2.0**-7


class Differences:
    """Central differences of one prompt's metric, with hooks that are written here and not in the engine.

    Args:
        model: computes in float64, so that only the metric itself is rounded.
        task: whose prompt.
        prompt: its place.
        kind: of the units.
        put: for each group the values that its units have at the last positions; their own where None.
        held: whether units keep their values while one is moved; otherwise they are moved by what it does to them.
    """

    def __init__(
        self, model: HookedModel, task: Task, prompt: int, kind: str, put: list[Tensor] | None, *, held: bool
    ) -> None:
        self.model, self.kind, pair = model, kind, task.pairs[prompt]
        self.ids, self.answer, self.foil = (torch.tensor(part) for part in ([pair.clean], [pair.answer], [pair.foil]))
        own = read(model, self.ids, kind)
        self.put, self.held = own if put is None else put, held
        self.shifts: dict[int, Tensor] = {}
        if not held:
            with torch.no_grad(), edited(model, {place: self._note(place) for place in range(len(own))}, kind):
                metric_of(model, self.ids, self.answer, self.foil)

    def _note(self, place: int):
        def note(units: Tensor) -> Tensor:
            rows = self._rows(units)
            put = self._ended(rows, self.put[place])
            self.shifts[place] = put - rows
            return put

        return note

    def _rows(self, units: Tensor) -> Tensor:
        """OPT's MLP is called with all tokens behind one another."""
        return units.reshape(*self.ids.shape, *units.shape[-2:])

    @staticmethod
    def _ended(units: Tensor, put: Tensor) -> Tensor:
        return torch.cat([units[:, : units.shape[1] - put.shape[1]], put.to(units.dtype)], 1)

    def metric(self, moved: int, by: Tensor) -> float:
        """With one group moved, `[1, seq, count, width]`."""

        def edit(place: int):
            def move(units: Tensor) -> Tensor:
                rows = self._rows(units)
                start = self._ended(rows, self.put[place]) if self.held else rows + self.shifts[place]
                return (start + by if place == moved else start).to(units.dtype)

            return move

        with torch.no_grad(), edited(self.model, {place: edit(place) for place in range(len(self.put))}, self.kind):
            return float(metric_of(self.model, self.ids, self.answer, self.foil).double())

    def along(self, place: int, way: Tensor, step: float = STEP) -> float:
        """The derivative along `way`, of the group's shape."""
        return (self.metric(place, step * way) - self.metric(place, -step * way)) / (2 * step)


def values_at(model: HookedModel, task: Task, prompt: int, kind: str, where: str) -> Activations | None:
    """None, the units' own values, those on the counterfactual, or zero at the answer position alone."""
    prompts = task.prompts([prompt])
    if where == "where they are":
        return None
    if where == "zero at the answer":
        return model.replacements(prompts, Patch(kind, (), "zero", "answer"))
    ablation = "resample" if where == "counterfactual" else "zero"
    return model.replacements(prompts, Patch(kind, (), ablation))


PLACES = ["where they are", "counterfactual", "zero", "zero at the answer"]


def given(at: Activations | None, prompt: int) -> list[Tensor] | None:
    return None if at is None else [torch.from_numpy(rows) for rows in at.rows([prompt])]


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("kind", ["head", "block"])
@pytest.mark.parametrize("prompt", [0, 1])
def test_every_entry_of_the_micro_models_gradient(prompt: int, kind: str, where: str, held: bool) -> None:
    """Two layers of attention and MLP, and every number of every unit at every position."""
    model = micro_model.two_layers_with_mlps()
    model.module.double()
    at = values_at(model, TASK, prompt, kind, where)
    gradient = model.gradient(TASK.prompts([prompt]), kind, at, held=held)[1]
    differences = Differences(model, TASK, prompt, kind, given(at, prompt), held=held)
    found, expected = [], []
    for place, [group] in enumerate(gradient.rows([prompt])):
        # What is not given is not held, and only ever in front of what is.
        first = len(group) - 1 if where == "zero at the answer" else 0
        for entry in np.ndindex(group.shape):
            if entry[0] >= first:
                way = torch.zeros(1, *group.shape, dtype=torch.float64)
                way[0, *entry] = 1
                found.append(float(group[entry]))
                expected.append(differences.along(place, way))
    largest = max(map(abs, expected))
    assert largest > 0.5
    # m reaches some thousands and is float32: its rounding over two steps is below 1e-3 of the largest derivative.
    assert found == pytest.approx(expected, abs=1e-3 * largest)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("where", ["where they are", "counterfactual"])
@pytest.mark.parametrize("kind", ["head", "block"])
@pytest.mark.parametrize("name", ["gpt_neox", "gpt2", "llama", "gemma2", "opt", "bloom", "falcon", "bert", "mixtral"])
def test_every_units_gradient_along_a_random_way(name: str, kind: str, where: str, held: bool) -> None:
    # OPT's own activation has a kink, on whose two sides differences say something else.
    model = tiny_models.tiny_model(name, **({"activation_function": "gelu"} if name == "opt" else {}))
    task = tiny_circuits.solvable_task(model, 1)
    if name != "mixtral":  # its experts' product is of no other type
        model.module.double()
    at = values_at(model, task, 0, kind, where)
    gradient = model.gradient(task.prompts(), kind, at, held=held)[1]
    differences = Differences(model, task, 0, kind, given(at, 0), held=held)
    generator = torch.Generator().manual_seed(3)
    found, expected = [], []
    for place, rows in enumerate(gradient.rows([0])):
        for unit in range(rows.shape[2]):
            way = torch.zeros(rows.shape, dtype=torch.float64)
            way[:, :, unit] = torch.randn(way[:, :, unit].shape, generator=generator).double()
            found.append(float((way.numpy() * rows).sum()))
            expected.append(differences.along(place, way, 2.0**-8))
    largest = max(map(abs, expected))
    assert largest > 1e-2
    # m is of the order of 10 and float32, so its rounding is 1e-4 over two steps; the third derivative adds as much.
    assert found == pytest.approx(expected, abs=5e-3 * largest)
