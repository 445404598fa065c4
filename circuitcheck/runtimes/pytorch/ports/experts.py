"""Experts of a mixture that keep their down projections in one stack: their neurons, and what the router chooses.

No module's input are the neurons of such an expert, so they are taken from the product with the stack itself, as the
model's own code makes it. What is put into them is added to what the experts put out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from circuitcheck.core.errors import SiteError
from circuitcheck.runtimes.pytorch.hooks import pre_hook
from circuitcheck.runtimes.pytorch.shadow import shadowed

EXPERTS, DOWN = "experts", "down_proj"
"""What mixtures call the module that holds all experts, and the stack of their down projections in it."""

Rows = Callable[[Tensor], Tensor | None]
"""Takes the neurons of one expert, `[tokens, neurons, 1]`, and returns what stands in their place; None leaves them."""


@dataclass(frozen=True)
class Expert:
    """One of the experts of a stack.

    A neuron's value is what the down projection reads times the weight that the router gives the expert, because that
    is what it writes by; 0 at tokens for which its expert was not chosen.

    Attributes:
        number: which of them, from 0.
        width: numbers that it writes, those of the residual stream.
    """

    number: int
    width: int


def stacked_experts(mlp: nn.Module) -> str | None:
    """Path, in an MLP, of the module that keeps all experts' down projections in one stack; None where there is none.

    Raises:
        SiteError: it keeps them in a form in which no neurons of it are known.
    """
    path: str | None = next((path for path, _ in mlp.named_modules() if path.rpartition(".")[2] == EXPERTS), None)
    if path is None:
        return None
    experts = mlp.get_submodule(path)
    stack = getattr(experts, DOWN, None)
    if not isinstance(stack, Tensor) or stack.dim() != 3 or not stack.is_floating_point():
        raise SiteError(
            f"{type(mlp).__name__}.{path} ({type(experts).__name__}) holds its experts neither as a stack of floats "
            f"called {DOWN} nor in another form that is known"
        )
    return path


def down_matrices(experts: nn.Module) -> Tensor:
    """What each neuron of each expert writes, `[experts, neurons, d_model]`."""
    stack: Tensor = getattr(experts, DOWN).detach()
    return stack if _is_transposed(experts) else stack.transpose(1, 2)


def _is_transposed(experts: nn.Module) -> bool:
    """Whether the stack is `[experts, neurons, d_model]`, as transformers says of those that are."""
    return bool(getattr(experts, "is_transposed", False))


@dataclass(frozen=True)
class Routed:
    """What the experts of one layer did in one pass.

    Attributes:
        chosen: number of each expert that a token was given to, `[tokens, k]`.
        weights: by how much what it writes counts, float `[tokens, k]`.
        neurons: what its down projection read, `[tokens, k, neurons]`.
    """

    chosen: Tensor
    weights: Tensor
    neurons: Tensor

    def values(self, expert: int) -> Tensor:
        """Values of an expert's neurons, float32 `[tokens, neurons, 1]`."""
        slots = (self.chosen == expert)[..., None]
        weighted = self.neurons.float() * self.weights.float()[..., None]
        return torch.where(slots, weighted, torch.zeros_like(weighted)).sum(1)[..., None]

    def runs(self, expert: int) -> Tensor:
        """For which tokens an expert was chosen, bool `[tokens]`."""
        return (self.chosen == expert).any(1)


def experts_of(module: nn.Module, mlp: str | None) -> nn.Module | None:
    """The module that keeps the experts of a layer's MLP in stacks; None where there is none that is known."""
    if mlp is None:
        return None
    try:
        path = stacked_experts(module.get_submodule(mlp))
    except SiteError:
        return None
    return None if path is None else module.get_submodule(f"{mlp}.{path}")


@contextmanager
def chosen_experts(experts: nn.Module) -> Iterator[list[Tensor]]:
    """Collects, inside the block, which experts each token is given to, `[tokens, k]` a call."""
    found: list[Tensor] = []

    def read(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        found.append(_choice(experts, arguments, keywords)[0])

    with pre_hook(experts, read, with_kwargs=True):
        yield found


def _choice(experts: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Which experts are chosen, and by how much each counts, `[tokens, k]` both, of what experts are called with.

    Raises:
        SiteError: they are not told so.
    """
    given = (*arguments, *keywords.values())[1:3]
    if len(given) < 2 or not all(isinstance(value, Tensor) and value.dim() == 2 for value in given):
        raise SiteError(f"{type(experts).__name__} is not told by [tokens, k] which experts are chosen, and how much.")
    chosen, weights = given
    return (weights, chosen) if chosen.is_floating_point() else (chosen, weights)


@contextmanager
def editing_expert(experts: nn.Module, number: int, edit: Rows, columns: Tensor | slice) -> Iterator[None]:
    """`edit` sees some neurons of one expert in every forward pass inside the block, and may replace them.

    An edit changes nothing at tokens for which the expert was not chosen.

    Args:
        experts: the module that holds all of them.
        number: which expert.
        edit: takes and gives values of its neurons.
        columns: which of these.
    """
    forward = vars(experts).get("forward")
    if isinstance(forward, _SeenForward):  # one pass shows the neurons of all
        forward.edits.append(entry := (number, edit, columns))
        try:
            yield
        finally:
            forward.edits.remove(entry)
        return
    with shadowed(experts, _SeenForward(experts, [(number, edit, columns)])):
        yield


class _SeenForward:
    """The forward of a module of experts, whose neurons are seen and replaced."""

    def __init__(self, experts: nn.Module, edits: list[tuple[int, Rows, Tensor | slice]]) -> None:
        self.experts, self.own, self.edits = experts, experts.forward, edits

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        routed, output = run_routed(self.experts, self.own, *arguments, **keywords)
        matrices = down_matrices(self.experts)
        for number, edit, columns in self.edits:
            before = routed.values(number)[:, columns]
            after = edit(before)
            if after is not None:
                change = (after - before)[..., 0] * routed.runs(number)[:, None]
                output = output + (change @ matrices[number][columns].float()).to(output.dtype)
        return output


def run_routed(experts: nn.Module, own: Callable[..., Tensor], *arguments: Any, **keywords: Any) -> tuple[Routed, Any]:
    """Calls the forward of a module of experts, and looks at what its down projections read.

    Raises:
        SiteError: they run in a way in which that cannot be seen.
    """
    with _Products(getattr(experts, DOWN)) as products:
        output = own(*arguments, **keywords)
    chosen, weights = _choice(experts, arguments, keywords)
    return Routed(chosen, weights, _by_token(experts, products.found, chosen)), output


def _by_token(experts: nn.Module, found: list[tuple[Any, Tensor]], chosen: Tensor) -> Tensor:
    """What was multiplied with the stack, `[tokens, k, neurons]`, in the order of the router's choice."""
    numbers = chosen.reshape(-1)
    parts, places = [], []
    for index, rows in found:
        flat = rows.reshape(-1, down_matrices(experts).shape[1])
        if index is None:  # all experts at once, one behind the other
            places.append(numbers.sort().indices)
        elif isinstance(index, Tensor) and index.dim() == 1:  # a matrix for each row, in order
            places.append(torch.arange(len(numbers), device=numbers.device))
        else:  # one expert, and the rows of those to whom it is the first choice before those to whom it is the second
            slot, token = torch.where((chosen == int(index)).T)
            places.append(token * chosen.shape[1] + slot)
        parts.append(flat)
    if [*map(len, parts)] != [*map(len, places)] or sum(map(len, parts)) != len(numbers):
        raise SiteError(
            f"{type(experts).__name__} runs its experts in a way in which what their down projections read cannot be "
            "seen; load the model with experts_implementation='eager'"
        )
    neurons = torch.zeros(len(numbers), parts[0].shape[1], dtype=parts[0].dtype, device=numbers.device)
    return neurons.index_put((torch.cat(places),), torch.cat(parts)).view(*chosen.shape, -1)


def routed_of(experts: nn.Module, run: Callable[[], Any]) -> tuple[Routed, Tensor]:
    """What the experts of one layer did in a pass, and what they put out, `[tokens, d_model]`."""
    seen: list[tuple[Routed, Tensor]] = []
    own = experts.forward

    def forward(*arguments: Any, **keywords: Any) -> Tensor:
        seen.append(run_routed(experts, own, *arguments, **keywords))
        return seen[-1][1]

    with shadowed(experts, forward):
        run()
    return seen[0]


class _Products(TorchFunctionMode):
    """Sees what is multiplied with a stack of matrices, or with some of it."""

    def __init__(self, stack: Tensor) -> None:
        super().__init__()
        self.made: list[tuple[Tensor, Any]] = [(stack, None)]
        self.found: list[tuple[Any, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs a function as it is, and notes what it makes of the stack."""
        result = func(*args, **(kwargs or {}))
        tensors = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor)]
        known = [entry for value in tensors for entry in self.made if entry[0] is value]
        if not known or not isinstance(result, Tensor):
            return result
        index = known[0][1]
        others = [value for value in tensors if value.is_floating_point() and not any(e[0] is value for e in self.made)]
        if others:
            self.found.append((index, others[0]))
        else:
            self.made.append((result, args[1] if func is Tensor.__getitem__ else index))
        return result
