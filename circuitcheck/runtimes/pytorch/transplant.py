"""Modules of a reference in the place of a candidate's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from circuitcheck.core.errors import CandidateError
from circuitcheck.core.runtime import Replaceable
from circuitcheck.runtimes.pytorch.other_names import llama_cpp_tensors, onnx_parts
from circuitcheck.runtimes.pytorch.quantizers.rtn import linear_weights
from circuitcheck.runtimes.pytorch.torch_model import TorchModel

Model = TypeVar("Model", bound=TorchModel)


def replaceable(reference: TorchModel, candidate: TorchModel) -> Replaceable:
    """The reference's linear maps that the candidate has too, but with other weights: every projection, and experts.

    Raises:
        CandidateError: there are none.
    """
    theirs = dict(candidate.module.named_modules())
    own = dict.fromkeys(part.path for part in linear_weights(reference.module, reference.structure))
    found = tuple(
        path for path in own if path in theirs and not _are_equal(reference.module.get_submodule(path), theirs[path])
    )
    if not found:
        raise CandidateError(
            f"candidate {candidate.name}: no linear map inside its layers differs from the reference's, so there is "
            "none that could be kept in high precision. Its fault lies elsewhere."
        )
    sites = candidate.structure.layers
    layers = tuple(tuple(path for path in found if path.startswith(f"{site.path}.")) for site in sites)
    blocks: dict[str, tuple[str, ...]] = {}
    tensors: dict[str, tuple[str, ...]] = {}
    nodes: dict[str, tuple[str, ...]] = {}
    for site, paths in zip(sites, layers, strict=True):
        inside = tuple(path for path in paths if path.startswith(f"{site.attention}."))
        others = tuple(path for path in paths if path not in inside)
        blocks |= {f"attention {site.layer}": inside, f"mlp {site.layer}": others}
        for path in paths:
            name = path.removeprefix(f"{site.path}.")
            tensors[path], nodes[path] = llama_cpp_tensors(site.layer, name), onnx_parts(site.path, name)
    known = {path: names for path, names in tensors.items() if names}
    return Replaceable(layers, candidate.structure.output_layer, blocks, known, nodes)


@contextmanager
def kept_modules(reference: TorchModel, candidate: Model, paths: Sequence[str]) -> Iterator[Model]:
    """The candidate with the reference's modules in some places, in its own dtype, for as long as the block runs.

    Args:
        reference: whose modules are copied.
        candidate: is changed, and has its own modules back after the block, also when the block raises.
        paths: module paths.
    """
    dtype, device = _dtype(candidate.module), candidate.device
    originals: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for path in paths:
            parent, _, name = path.rpartition(".")
            holder = candidate.module.get_submodule(parent)
            originals.append((holder, name, holder.get_submodule(name)))
            copy = deepcopy(reference.module.get_submodule(path)).to(device=device, dtype=dtype)
            setattr(holder, name, copy.train(originals[-1][2].training))
        # What was proven of the candidate's own modules is not proven of these.
        yield replace(candidate, proven=WeakKeyDictionary())
    finally:
        for holder, name, module in originals:
            setattr(holder, name, module)


def _are_equal(ours: nn.Module, theirs: nn.Module) -> bool:
    if type(ours) is not type(theirs):
        return False
    mine, other = ours.state_dict(), theirs.state_dict()
    return mine.keys() == other.keys() and all(_same(value, other[key]) for key, value in mine.items())


def _same(ours: Tensor, theirs: Tensor) -> bool:
    plain = type(theirs) in (Tensor, nn.Parameter)
    return plain and ours.dtype == theirs.dtype and torch.equal(ours, theirs.to(ours.device))


def _dtype(module: nn.Module) -> torch.dtype:
    """What the model computes in: the type of its first float weight, the embedding's, which is seldom quantized."""
    floats = (parameter.dtype for parameter in module.parameters() if parameter.is_floating_point())
    return next(floats, torch.float32)
