"""Finds the down projections of a layer's MLP, whose input are its neurons."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from circuitcheck.core.errors import SiteError
from circuitcheck.core.phrases import listed
from circuitcheck.runtimes.pytorch.ports.experts import Expert, down_matrices, stacked_experts
from circuitcheck.runtimes.pytorch.ports.structure import LayerSite, input_width, output_width

DOWN_NAMES = ("down_proj", "dense_4h_to_h", "c_proj", "fc_out", "fc2", "lin2", "w2", "wo", "dense")
"""What MLPs call the map back to the residual stream, most common first."""

INSTEAD = "Measure each MLP as a whole instead: --circuit-unit block."


@dataclass(frozen=True)
class Neurons:
    """Neurons behind one down projection.

    Attributes:
        module: path of the projection; of experts in a stack, of the module that holds them.
        count: how many there are.
        name: what tells them from others of the layer; empty where there are no others.
        expert: which of a stack of experts.
        routed: whether a mixture of experts is what they are in.
    """

    module: str
    count: int
    name: str = ""
    expert: Expert | None = None
    routed: bool = False


def down_projections(module: nn.Module, site: LayerSite) -> list[Neurons]:
    """The maps from a layer's neurons back to the residual stream: one, or in a mixture each expert's.

    Raises:
        SiteError: the layer has no MLP of such a form, and what there is instead.
    """
    if site.mlp is None:
        raise SiteError(f"{site.path} has no MLP that is known, so no neurons of it can be measured. {INSTEAD}")
    mlp = module.get_submodule(site.mlp)
    try:
        stack = stacked_experts(mlp)
    except SiteError as error:
        raise SiteError(f"{site.mlp}: {error}, so no neurons of it can be measured. {INSTEAD}") from error
    if stack is None:
        path = _down_projection(module, site, mlp)
        return [Neurons(path, _width(module, path))]
    count, neurons, width = down_matrices(mlp.get_submodule(stack)).shape
    experts = f"{site.mlp}.{stack}"
    found = [Neurons(experts, neurons, f" expert {one}", Expert(one, width), True) for one in range(count)]
    for path in _maps(module, site, mlp):
        if path.rpartition(".")[2] in DOWN_NAMES:  # of experts that see every token
            name = path.removeprefix(f"{site.mlp}.").rpartition(".")[0].replace("_", " ")
            found.append(Neurons(path, _width(module, path), f" {name}", routed=True))
    return found


def _width(module: nn.Module, path: str) -> int:
    width = input_width(module.get_submodule(path))
    assert width is not None  # that is how it was found
    return width


def _maps(module: nn.Module, site: LayerSite, mlp: nn.Module) -> list[str]:
    """Paths of the linear maps in an MLP that lead back to the residual stream."""
    stream = output_width(module.get_submodule(site.projection))
    return [
        f"{site.mlp}.{name}".rstrip(".")
        for name, part in mlp.named_modules()
        if input_width(part) is not None and output_width(part) == stream
    ]


def _down_projection(module: nn.Module, site: LayerSite, mlp: nn.Module) -> str:
    """Module path of the down projection of a dense or a gated MLP."""
    maps = _maps(module, site, mlp)
    named = [path for name in DOWN_NAMES for path in maps if path.rpartition(".")[2] == name]
    if named or len(maps) == 1:
        return (named or maps)[0]
    stream = output_width(module.get_submodule(site.projection))
    parts = listed([name for name, _ in mlp.named_children()], 8) or "none"
    raise SiteError(
        f"{site.mlp} ({type(mlp).__name__}): exactly one linear map back to the residual stream, {stream} wide, is "
        f"needed, and {len(maps)} were found. Its parts are: {parts}. {INSTEAD}"
    )
