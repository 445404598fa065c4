"""Neurons of experts that are kept in one stack: found, told apart, read, put in, and what the router chooses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from torch import Tensor, nn

from circuitcheck.core.activations import Activations
from circuitcheck.core.errors import SiteError
from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import PromptPair, Prompts, Task
from circuitcheck.core.runtime import Work
from circuitcheck.runtimes.pytorch.forward import last_logits
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.load import hook_module
from circuitcheck.runtimes.pytorch.ports.experts import editing_expert, run_routed

MIXTURES = ("mixtral-routed", "qwen2_moe", "qwen3_moe", "gpt_oss", "granitemoe")
WAYS = ("eager", "grouped_mm", "batched_mm")
"""In which transformers runs experts in a stack: one by one, sorted by expert, or with a copy of weights a token."""

ROUNDING = 1e-5
"""Sums are rounded in another order; relative to the largest."""

SEQ = 6


class Experts(nn.Module):
    """Two experts of two neurons over a stream of two numbers, run one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.up_proj = nn.Parameter(torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [0.0, 2.0]]]))
        self.down_proj = nn.Parameter(torch.tensor([[[1.0, 2.0], [0.0, 1.0]], [[3.0, 0.0], [1.0, 1.0]]]))

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        output = torch.zeros_like(hidden)
        for expert in chosen.unique():
            slot, token = torch.where((chosen == expert).T)
            read = nn.functional.linear(hidden[token], self.up_proj[expert]).relu()
            written = nn.functional.linear(read, self.down_proj[expert]) * weights[token, slot, None]
            output.index_add_(0, token, written)
        return output


HIDDEN = torch.tensor([[1.0, 2.0], [-1.0, 3.0], [2.0, -1.0]])
CHOSEN = torch.tensor([[1], [0], [1]])
WEIGHTS = torch.tensor([[0.5], [1.0], [0.25]])
"""Token 0 goes to expert 1 by a half, token 1 to expert 0, token 2 to expert 1 by a quarter."""


def random_task() -> Task:
    pairs = []
    for number in range(3):
        clean, other = tiny_models.token_ids(2, SEQ + number % 2, seed=number).tolist()
        pairs.append(PromptPair(tuple(clean), tuple(other), 3, 5, "one"))
    return Task("random", tuple(pairs))


def hooked(name: str, way: str, **settings: Any) -> HookedModel:
    module = tiny_models.tiny_module(name, **settings)
    module.set_experts_implementation(way)
    return hook_module(module, name=name)


def test_by_hand() -> None:
    """Expert 1 reads relu(1 + 2), relu(2 x 2) of token 0 and relu(2 - 1), relu(-2) of token 2; expert 0 relu(-1), 3."""
    experts = Experts()
    with torch.no_grad():
        routed, output = run_routed(experts, experts.forward, HIDDEN, CHOSEN, WEIGHTS)
        assert routed.values(0)[..., 0].tolist() == [[0, 0], [0, 3], [0, 0]]
        assert routed.values(1)[..., 0].tolist() == [[1.5, 2], [0, 0], [0.25, 0]]
        assert output.tolist() == [[4.5, 3.5], [6, 3], [0.75, 0.25]]

        def one_more(units: Tensor) -> Tensor:
            return units + 1

        with editing_expert(experts, 1, one_more, slice(0, 1)):
            # Neuron 0 of expert 1 writes (3, 1); token 1 is not given to that expert.
            assert experts(HIDDEN, CHOSEN, WEIGHTS).tolist() == [[7.5, 4.5], [6, 3], [3.75, 1.25]]
            with editing_expert(experts, 0, lambda units: units * 0, slice(None)):
                assert experts(HIDDEN, CHOSEN, WEIGHTS).tolist() == [[7.5, 4.5], [0, 0], [3.75, 1.25]]
        assert torch.equal(experts(HIDDEN, CHOSEN, WEIGHTS), output)
    assert "forward" not in vars(experts)


def test_each_expert_is_a_group_and_so_is_one_that_sees_every_token() -> None:
    layout = tiny_models.tiny_model("qwen2_moe").layout("neuron")
    names = ["neuron 0 expert 0", *(f"neuron 0 expert {number}" for number in (1, 2, 3)), "neuron 0 shared expert"]
    assert [group.name for group in layout.groups[:5]] == names
    assert layout.label((1, 7)) == "neuron 0 expert 1.7"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MIXTURES)
def test_every_way_to_run_experts_shows_the_same_neurons(name: str, way: str) -> None:
    """And what is put into them comes out as written; held against experts that are computed here in float64."""
    model, ids = hooked(name, way), tiny_models.token_ids(3, SEQ)
    task = random_task()
    with model.unchanged():
        model.prove(task.prompts(), "neuron")
    layer = model.structure.layers[1]
    experts = model.module.get_submodule(f"{layer.mlp}.experts")
    given: list[tuple[Tensor, ...]] = []
    handle = experts.register_forward_pre_hook(lambda _, arguments: given.append(arguments))
    with torch.no_grad():
        last_logits(model, ids)
    handle.remove()
    hidden, chosen, weights = given[0]
    expected = by_formula(experts, hidden.double(), chosen, weights.double())
    values = model.activations(prompts_of(ids), "neuron")
    layout = model.layout("neuron")
    for place, group in enumerate(layout.groups):
        if group.layer == 1 and "shared" not in group.name:
            found = values.groups[place][..., 0]
            wanted = expected[int(group.name.rpartition(" ")[2])]
            np.testing.assert_allclose(found, wanted, atol=ROUNDING * np.abs(wanted).max())


def prompts_of(ids: Tensor) -> Prompts:
    """Prompts of these tokens, one behind the other."""
    return Task("ids", tuple(PromptPair(tuple(row), tuple(row), 3, 5, "one") for row in ids.tolist())).prompts()


def by_formula(experts: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> list[np.ndarray]:
    """Each expert's neurons times its weight at each token, 0 where it was not chosen, `[tokens, neurons]`."""
    found = []
    for number in range(experts.num_experts):
        up = experts.gate_up_proj[number].detach().double()
        if getattr(experts, "is_transposed", False):  # GPT-OSS
            both = hidden @ up + experts.gate_up_proj_bias[number].detach().double()
            gate, linear = both[..., ::2].clamp(max=experts.limit), both[..., 1::2].clamp(-experts.limit, experts.limit)
            neurons = (linear + 1) * gate * torch.sigmoid(gate * experts.alpha)
        else:
            gate, linear = (hidden @ up.T).chunk(2, -1)
            neurons = experts.act_fn(gate) * linear
        share = torch.where(chosen == number, weights, torch.zeros_like(weights)).sum(1)
        found.append((neurons * share[:, None]).numpy())
    return found


@pytest.mark.parametrize("way", WAYS)
def test_an_edit_is_what_scaled_weights_do(way: str) -> None:
    """Twice a neuron's value is what twice its column of the down projection writes."""
    model, task = hooked("mixtral-routed", way), random_task()
    prompts = task.prompts()
    z = model.activations(prompts, "neuron")
    units = [(place, 5) for place in range(4)]
    twice = Patch("neuron", tuple((unit,) for unit in units), doubled(z))
    found = model.patched(prompts, twice, Work())
    stack = model.module.get_submodule("model.layers.0.mlp.experts").down_proj
    for place, metric in enumerate(found):
        with torch.no_grad():
            stack[place, :, 5] *= 2
            expected = model.metric(prompts)
            stack[place, :, 5] /= 2
        np.testing.assert_allclose(metric, expected, atol=ROUNDING * np.abs(expected).max())


def doubled(z: Activations) -> Activations:
    return Activations(z.index, z.lengths, tuple(2 * group for group in z.groups))


def test_the_gradient_is_that_of_the_weights() -> None:
    """d m / d value, times the value, is how m moves by a factor on the neuron's column: both are taken here."""
    model, prompts = tiny_models.tiny_model("mixtral-routed"), random_task().prompts()
    z, gradient = model.activations(prompts, "neuron"), model.gradient(prompts, "neuron")[1]
    stack = model.module.get_submodule("model.layers.1.mlp.experts").down_proj
    product = [(z.groups[4 + place] * gradient.groups[4 + place])[..., 0].sum(0) for place in range(4)]
    stack.requires_grad_(True)
    total = torch.zeros_like(stack)
    for batch in prompts.batches():
        logits = model.module(torch.from_numpy(batch.clean).long()).logits[:, -1]
        (logits[:, 3] - logits[:, 5]).sum().backward()
        total += stack.grad
        stack.grad = None
    expected = (total * stack).sum(1).detach().numpy()
    np.testing.assert_allclose(np.stack(product), expected, atol=ROUNDING * np.abs(expected).max())


def test_the_routers_choice_is_what_the_router_says() -> None:
    model, prompts = tiny_models.tiny_model("qwen3_moe"), random_task().prompts()
    chosen: list[Tensor] = []
    gate = model.module.get_submodule("model.layers.1.mlp.gate")
    handle = gate.register_forward_hook(lambda _, __, given: chosen.append(given[2].clone()))
    found = model.routes(prompts)[1]
    handle.remove()
    assert (found.layer, found.experts) == (1, 4)
    rows = {
        place: part
        for batch, all_of in zip(prompts.batches(), chosen, strict=True)
        for place, part in zip(batch.index, all_of.view(len(batch.index), -1, 2), strict=True)
    }
    expected = torch.cat([rows[place] for place in prompts.index]).sort(-1).values
    assert np.array_equal(found.chosen, expected.numpy())
    assert tiny_models.tiny_model("llama").routes(prompts) == ()


def test_experts_of_another_form_are_refused() -> None:
    module = tiny_models.tiny_module("mixtral-routed")
    structure = hook_module(module).structure
    module.model.layers[1].mlp.experts = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))
    with pytest.raises(SiteError, match=r"layers\.1\.mlp: .*holds its experts neither .* Measure each MLP as a whole"):
        HookedModel(module, structure).layout("neuron")


def test_a_way_to_run_them_in_which_nothing_is_seen_is_refused() -> None:
    class Unseen(Experts):
        def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
            return hidden

    with pytest.raises(SiteError, match=r"Unseen runs its experts in a way .* experts_implementation='eager'"):
        run_routed(experts := Unseen(), experts.forward, HIDDEN, CHOSEN, WEIGHTS)


def test_what_does_not_add_up_fails_the_proofs() -> None:
    """An expert that writes more than its down projection says is none whose neurons say what it writes."""
    model = tiny_models.tiny_model("mixtral-routed")
    experts = model.module.get_submodule("model.layers.0.mlp.experts")
    own = experts.forward
    experts.forward = lambda *given: own(*given) + 0.5
    with pytest.raises(SiteError, match=r"layers\.0\.mlp\.experts, check 'experts add up'"):
        model.prove(random_task().prompts(), "neuron")
