"""A model of linear 'heads' whose every number can be worked out with pencil and paper.

Token t has the embedding E[t]. A layer has two heads with d_head = d_model = 2 and no softmax:

    head 0 moves the previous position's residual:   z0[p] = gain0 * r[p-1] + offset0, with r[-1] = (0, 0)
    head 1 sums the residual up to here:             z1[p] = gain1 * (r[0] + ... + r[p]) + offset1

and the layer adds `W0 z0 + W1 z1 + bias` to the residual; where there is an MLP, it then adds `r * r / 4`, number by
number. The logits are `U r + c`. All entries are small binary fractions, so that float32 computes them exactly and
tests need no tolerance.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.load import hook_module
from circuitcheck.runtimes.pytorch.ports.structure import LayerSite, Structure

EMBEDDING = ((1.0, 0.0), (0.0, 1.0), (2.0, 1.0), (-1.0, 2.0))
UNEMBEDDING = ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.0, -1.0))
UNEMBEDDING_BIAS = (0.0, 0.5, 0.0, 0.0)

FIRST_LAYER = ((2.0, 0.0, 0.0, 1.0), (0.0, 1.0, 0.5, 0.0)), (0.25, -0.5)
"""[W0 W1] with W0 = [[2, 0], [0, 1]] and W1 = [[0, 1], [1/2, 0]], and the bias."""

SECOND_LAYER = ((1.0, 0.0, 0.0, 0.0), (0.0, -1.0, 1.0, 0.0)), (0.0, 0.0)
"""[W0 W1] with W0 = [[1, 0], [0, -1]] and W1 = [[0, 0], [1, 0]], and no bias."""


class MicroAttention(nn.Module):
    """Two linear heads and their output projection."""

    def __init__(self, weight: tuple, bias: tuple) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(2))
        self.offset = nn.Parameter(torch.zeros(2, 2))
        self.project = nn.Linear(4, 2)
        self.project.weight.data.copy_(torch.tensor(weight))
        self.project.bias.data.copy_(torch.tensor(bias))

    def forward(self, residual: Tensor) -> Tensor:
        previous = torch.zeros_like(residual)
        previous[:, 1:] = residual[:, :-1]
        heads = torch.stack([previous, residual.cumsum(1)], dim=2)
        return self.project((heads * self.gain[:, None] + self.offset).flatten(-2))


class MicroLayer(nn.Module):
    """Attention alone: there is no MLP and no norm."""

    def __init__(self, weight: tuple, bias: tuple) -> None:
        super().__init__()
        self.attention = MicroAttention(weight, bias)

    def forward(self, residual: Tensor) -> Tensor:
        return residual + self.attention(residual)


class Squares(nn.Module):
    """An MLP whose derivative is easily written down."""

    def forward(self, residual: Tensor) -> Tensor:
        return residual * residual / 4


class MicroLayerWithMLP(MicroLayer):
    """Attention, and then an MLP."""

    def __init__(self, weight: tuple, bias: tuple) -> None:
        super().__init__(weight, bias)
        self.mlp = Squares()

    def forward(self, residual: Tensor) -> Tensor:
        residual = super().forward(residual)
        return residual + self.mlp(residual)


class MicroModel(nn.Module):
    """Token ids `[batch, seq]` to logits `[batch, seq, 4]`."""

    layer: type[MicroLayer] = MicroLayer

    def __init__(self, *layers: tuple[tuple, tuple]) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 2)
        self.embed.weight.data.copy_(torch.tensor(EMBEDDING))
        self.layers = nn.ModuleList(self.layer(*layer) for layer in layers)
        self.unembed = nn.Linear(2, 4)
        self.unembed.weight.data.copy_(torch.tensor(UNEMBEDDING))
        self.unembed.bias.data.copy_(torch.tensor(UNEMBEDDING_BIAS))

    def forward(self, ids: Tensor) -> Tensor:
        residual = self.embed(ids)
        for layer in self.layers:
            residual = layer(residual)
        return self.unembed(residual)


class MicroModelWithMLPs(MicroModel):
    """The same with an MLP in every layer."""

    layer = MicroLayerWithMLP


def micro_structure(n_layers: int, *, mlps: bool = False) -> Structure:
    """Where `MicroModel` has its heads; it is not a Hugging Face model, so nothing can be looked up."""
    sites = tuple(
        LayerSite(
            layer=layer,
            path=f"layers.{layer}",
            attention=f"layers.{layer}.attention",
            projection=f"layers.{layer}.attention.project",
            mlp=f"layers.{layer}.mlp" if mlps else None,
            n_heads=2,
            d_head=2,
        )
        for layer in range(n_layers)
    )
    return Structure(layers=sites, embedding="embed", final_norm=None, output_layer="unembed")


def hook_micro(module: nn.Module, n_layers: int = 1, name: str = "micro") -> HookedModel:
    """Any model with `MicroModel`'s module paths, hooked."""
    mlps = isinstance(module, MicroModelWithMLPs)
    return hook_module(module.eval(), micro_structure(n_layers, mlps=mlps), name=name)


def one_layer() -> HookedModel:
    return hook_micro(MicroModel(FIRST_LAYER))


def two_layers() -> HookedModel:
    return hook_micro(MicroModel(FIRST_LAYER, SECOND_LAYER), 2)


def one_layer_with_mlp() -> HookedModel:
    return hook_micro(MicroModelWithMLPs(FIRST_LAYER))


def two_layers_with_mlps() -> HookedModel:
    return hook_micro(MicroModelWithMLPs(FIRST_LAYER, SECOND_LAYER), 2)


def perturbed_by_hand() -> HookedModel:
    """The one-layer model whose head 0 is off by (0, 1) everywhere, and whose head 1 has half its size."""
    module = MicroModel(FIRST_LAYER)
    attention = module.layers[0].attention
    attention.offset.data[0] = torch.tensor([0.0, 1.0])
    attention.gain.data[1] = 0.5
    return hook_micro(module, name="perturbed")


def micro_task() -> Task:
    """Two prompts of two lengths: (2, 0) with answer 0 and foil 1; (1, 2, 3) with answer 2 and foil 3."""
    return Task(
        "micro",
        (
            PromptPair(clean=(2, 0), counterfactual=(1, 0), answer=0, foil=1, cluster="two tokens"),
            PromptPair(clean=(1, 2, 3), counterfactual=(1, 0, 3), answer=2, foil=3, cluster="three tokens"),
        ),
    )
