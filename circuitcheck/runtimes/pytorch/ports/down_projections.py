"""Finds the down projection of a layer's MLP, whose input are its neurons."""

from __future__ import annotations

from torch import nn

from circuitcheck.core.errors import SiteError
from circuitcheck.core.phrases import listed
from circuitcheck.runtimes.pytorch.ports.structure import LayerSite, input_width, output_width

DOWN_NAMES = ("down_proj", "dense_4h_to_h", "c_proj", "fc_out", "fc2", "lin2", "w2", "wo", "dense")
"""What MLPs call the map back to the residual stream, most common first."""

INSTEAD = "Measure each MLP as a whole instead: --circuit-unit block."


def down_projection(module: nn.Module, site: LayerSite) -> str:
    """Module path of the map from a layer's neurons back to the residual stream, in a dense or a gated MLP.

    Raises:
        SiteError: the layer has no MLP of such a form, and what there is instead.
    """
    if site.mlp is None:
        raise SiteError(f"{site.path} has no MLP that is known, so no neurons of it can be measured. {INSTEAD}")
    mlp, stream = module.get_submodule(site.mlp), output_width(module.get_submodule(site.projection))
    if any(name.rpartition(".")[2] == "experts" for name, _ in mlp.named_modules()):
        raise SiteError(
            f"{site.mlp} ({type(mlp).__name__}) is a mixture of experts that keeps all their down projections in one "
            f"stack, where no module's input are its neurons. {INSTEAD}"
        )
    maps = {
        f"{site.mlp}.{name}".rstrip("."): part
        for name, part in mlp.named_modules()
        if input_width(part) is not None and output_width(part) == stream
    }
    named = [path for name in DOWN_NAMES for path in maps if path.rpartition(".")[2] == name]
    if named or len(maps) == 1:
        return (named or list(maps))[0]
    parts = listed([name for name, _ in mlp.named_children()], 8) or "none"
    raise SiteError(
        f"{site.mlp} ({type(mlp).__name__}): exactly one linear map back to the residual stream, {stream} wide, is "
        f"needed, and {len(maps)} were found. Its parts are: {parts}. {INSTEAD}"
    )
