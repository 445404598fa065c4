"""Proves on the loaded model that reading and replacing `z` means what it says, before anything is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from circuitcheck.core.errors import ModelChangedError, SiteError
from circuitcheck.runtimes.pytorch.forward import (
    final_hidden,
    float_rows,
    last_logits,
    logit_difference,
    plain_weight,
    unembedding,
)
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.ports.hooks import edit_z, pre_hook, record_z, split_heads
from circuitcheck.runtimes.pytorch.ports.structure import LayerSite

PROBE_PROMPTS = 2
"""Prompts that proofs run on; the proofs are about the model's code, not about its answers."""

READOUT_RANKS = (1.0, 0.75, 0.5)
"""Tokens whose logits are held against the one with the smallest: their places in order, as shares."""

SAMPLED_BYTES = 4096
"""How many bytes of a tensor are looked at before and after a measurement."""

SUMMED_STEPS, STORED_STEPS = 64, 8
"""How many rounding errors a rebuilt sum may differ by, relative to its largest value: of float32, in which sums are
taken (6 were seen), and of the model's own type, in which their results are stored (half of one was seen)."""


def prove(model: HookedModel, ids: Tensor) -> None:
    """Runs every check on every layer.

    Args:
        model: the model, in evaluation mode.
        ids: a few prompts of one length, `[batch, seq]`, on the model's device.

    Raises:
        SiteError: lists every failure with its layer, module and check.
    """
    with torch.no_grad():
        # The later checks need what the earlier ones prove, so each group runs only where the one before it passed.
        failures = (
            [*_modules_exist(model)]
            or [*_runs_once(model, ids), *_finite(model, ids)]
            or [
                *_write_back(model, ids),
                *_ablation_matters(model, ids),
                *_heads_rebuild_output(model, ids),
                *_readout(model, ids),
            ]
        )
    if failures:
        raise SiteError(
            f"{model.name}: the hooks fail {len(failures)} proof(s), so no head of this model can be measured:\n  "
            + "\n  ".join(failures)
        )


def _modules_exist(model: HookedModel) -> Iterator[str]:
    paths = {path for path, _ in model.module.named_modules(remove_duplicate=False)}
    for site in model.structure.layers:
        if site.projection not in paths:
            yield _failure(site, "z is readable", "there is no such module")
    output = model.structure.output_layer
    if output is None and model.metric.function is None:
        yield _readout_failure(
            model,
            f"the model has no output embedding (unembedding), from which {model.metric.name} is read; load it with "
            "its language-modelling head, or give a metric of your own, package.module:function",
        )
    elif output is not None and output not in paths:
        yield _readout_failure(model, "there is no such module")


def _runs_once(model: HookedModel, ids: Tensor) -> Iterator[str]:
    calls: dict[int, int] = {site.layer: 0 for site in model.structure.layers}
    readouts: list[bool] = []

    def counter(layer: int) -> Any:
        def count(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            width = model.structure.layers[layer].n_heads * model.structure.layers[layer].d_head
            calls[layer] += 1 if arguments and arguments[0].shape == (*ids.shape, width) else 1000

        return count

    def note_readout(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        readouts.append(bool(arguments))

    with ExitStack() as stack:
        for site in model.structure.layers:
            stack.enter_context(pre_hook(model.module.get_submodule(site.projection), counter(site.layer)))
        if _is_read(model):
            stack.enter_context(pre_hook(unembedding(model), note_readout))
        last_logits(model, ids)
    for site in model.structure.layers:
        if calls[site.layer] >= 1000:
            yield _failure(site, "z is readable", "its first argument is not [batch, seq, n_heads * d_head]")
        elif calls[site.layer] != 1:
            yield _failure(
                site, "z is readable", f"it ran {calls[site.layer]} times in one forward pass instead of once"
            )
    if _is_read(model) and not (readouts and all(readouts)):
        yield _readout_failure(model, "it is not called with the final hidden state in a forward pass")


def _finite(model: HookedModel, ids: Tensor) -> Iterator[str]:
    """NaN equals nothing, itself included, so a model that gives it would fail every other check for a wrong reason."""
    if not last_logits(model, ids).isfinite().all():
        yield _readout_failure(model, "the model's logits are NaN or infinite; its weights or activations overflow")


def _write_back(model: HookedModel, ids: Tensor) -> Iterator[str]:
    """Check 1: writing back the z that was read leaves the logits bit-identical."""
    with record_z(model) as z:
        expected = last_logits(model, ids)
    for site in model.structure.layers:
        with edit_z(model, {site.layer: lambda _, layer=site.layer: z[layer]}):  # type: ignore[misc]
            written = last_logits(model, ids)
        if not torch.equal(expected, written):
            difference = (expected - written).abs().max().item()
            yield _failure(
                site, "write back", f"writing back the z that was read changes logits by up to {difference:.3g}"
            )


def _ablation_matters(model: HookedModel, ids: Tensor) -> Iterator[str]:
    """Check 2: ablating a layer's heads changes the logits."""
    expected = last_logits(model, ids)
    for site in model.structure.layers:
        with edit_z(model, {site.layer: torch.zeros_like}):
            ablated = last_logits(model, ids)
        if torch.equal(expected, ablated):
            yield _failure(site, "ablation matters", "zeroing all of the layer's heads leaves the logits as they were")


def _heads_rebuild_output(model: HookedModel, ids: Tensor) -> Iterator[str]:
    """Check 3: where the projection is a plain float linear map, the heads' contributions add up to its output."""
    for site in model.structure.layers:
        projection = model.module.get_submodule(site.projection)
        matrix = float_matrix(projection)
        if matrix is None:
            continue
        z, output = _input_and_output(model, projection, ids)
        per_head = matrix.reshape(site.n_heads, site.d_head, -1)
        rebuilt = torch.einsum("bshd,hdm->bsm", split_heads(site, z.double()), per_head.double())
        bias = getattr(projection, "bias", None)
        if bias is not None:
            rebuilt = rebuilt + bias.double()
        error = (rebuilt - output.double()).abs().max().item()
        allowed = _rounding(output, output.dtype)
        if not error <= allowed:
            detail = (
                f"the sum over heads of z W_O differs from its output by {error:.3g} (rounding explains {allowed:.3g})"
            )
            yield _failure(site, "heads rebuild the output", detail)


def float_matrix(projection: nn.Module) -> Tensor | None:
    """The `[in, out]` matrix of a plain floating-point linear map, or None for anything else."""
    weight = plain_weight(projection)
    if weight is None:
        return None
    if isinstance(projection, nn.Linear):
        return weight.detach().T
    return weight.detach() if isinstance(projection, Conv1D) else None


def _input_and_output(model: HookedModel, projection: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor]:
    seen: list[tuple[Tensor, Tensor]] = []

    def read(_: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        seen.append((arguments[0].clone(), output.clone()))

    handle = projection.register_forward_hook(read)
    try:
        last_logits(model, ids)
    finally:
        handle.remove()
    return seen[0]


def _readout(model: HookedModel, ids: Tensor) -> Iterator[str]:
    """The metric that is read from the unembedding is a difference of the model's own logits.

    Of several pairs of tokens, because a transform that is not known may agree by chance on one.
    """
    if not _is_read(model) or float_rows(output := unembedding(model)) is None:
        return
    logits = last_logits(model, ids)
    order = logits.argsort(-1)
    foil = order[:, 0]
    hidden = final_hidden(model, ids)
    error = 0.0
    for rank in READOUT_RANKS:
        answer = order[:, int(rank * (order.shape[1] - 1))]
        own = (logits.gather(1, answer[:, None]).double() - logits.gather(1, foil[:, None]).double())[:, 0]
        found = (own - logit_difference(model, hidden, answer, foil).double()).abs().max().item()
        error = max(error, found) if found == found else found
    allowed = _rounding(logits, next(output.parameters()).dtype)  # some models give float32 logits of float16 ones
    if not error <= allowed:
        yield _readout_failure(
            model,
            f"logits differ from the unembedding of the final hidden state by {error:.3g} (rounding explains "
            f"{allowed:.3g}); the model scales or caps its logits in a way that is not known",
        )


def _is_read(model: HookedModel) -> bool:
    """Whether the metric is read from the unembedding, and not by a function from whatever the model puts out."""
    return model.structure.output_layer is not None and model.metric.function is None


def _rounding(values: Tensor, stored: torch.dtype) -> float:
    """How far a rebuilt sum, whose terms are of type `stored`, may be off `values`, in their unit."""
    steps = SUMMED_STEPS * torch.finfo(torch.float32).eps + STORED_STEPS * torch.finfo(stored).eps
    return steps * max(values.abs().max().item(), 1e-30)


def _failure(site: LayerSite, check: str, detail: str) -> str:
    return f"layer {site.layer}, module {site.projection}, check {check!r}: {detail}"


def _readout_failure(model: HookedModel, detail: str) -> str:
    return f"output layer, module {model.structure.output_layer or 'none'}, check 'readout': {detail}"


@contextmanager
def measuring(model: HookedModel) -> Iterator[None]:
    """Evaluation mode for as long as the block runs, and check 4: afterwards the model is as it was.

    Raises:
        ModelChangedError: a hook, a parameter or a training flag differs after the block.
    """
    flags = {part: part.training for part in model.module.modules()}
    model.module.eval()
    before = _state(model.module)
    try:
        yield
        after = _state(model.module)
    finally:
        for part, flag in flags.items():
            part.training = flag
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    if changed:
        raise ModelChangedError(
            f"{model.name}: measuring left these other than it found them: {', '.join(changed[:10])}"
        )


def _state(module: nn.Module) -> dict[str, Any]:
    """What a measurement must leave alone.

    Tensor versions count writes, so contents need not be copied; writes through `.data` are not counted, and a sample
    of the contents shows those that change a tensor as a whole.
    """
    state: dict[str, Any] = {}
    for path, part in module.named_modules():
        hooks = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
        state[f"{path or type(module).__name__} hooks"] = tuple(tuple(sorted(kind)) for kind in hooks)
        state[f"{path or type(module).__name__} attributes"] = "forward" in vars(part)
        state[f"{path or type(module).__name__} training flag"] = part.training
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        version = None if tensor.is_inference() else tensor._version
        has_gradient = tensor.grad is not None
        state[f"{name} (tensor)"] = (id(tensor), tensor.data_ptr(), version, tensor.requires_grad, has_gradient)
        state[f"{name} (contents)"] = _sample(tensor)
    return state


def _sample(tensor: Tensor) -> bytes:
    """Some bytes of a plain tensor's storage; none of tensors that hide what they store."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided or tensor.is_meta:
        return b""
    stored = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
    # An odd step, so that it meets every byte of an element in turn.
    step = (len(stored) // SAMPLED_BYTES) | 1
    return stored[::step].cpu().numpy().tobytes()
