"""Proves on the loaded model that reading and replacing units means what it says, before anything is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from circuitcheck.core.errors import SiteError
from circuitcheck.runtimes.pytorch.forward import (
    final_hidden,
    float_rows,
    last_logits,
    logit_difference,
    plain_weight,
    unembedding,
)
from circuitcheck.runtimes.pytorch.hooks import post_hook, pre_hook
from circuitcheck.runtimes.pytorch.offload import stored
from circuitcheck.runtimes.pytorch.ports.edits import Edits
from circuitcheck.runtimes.pytorch.ports.experts import DOWN, down_matrices, routed_of
from circuitcheck.runtimes.pytorch.ports.ports import (
    CannotEditError,
    Edit,
    Port,
    UnitEdit,
    editing,
    editing_units,
    reading,
)
from circuitcheck.runtimes.pytorch.torch_model import TorchModel

PROBE_PROMPTS = 2
"""Prompts that proofs run on; the proofs are about the model's code, not about its answers."""

PROBE_ROWS = 16
"""Most rows in a pass of a proof that ablates several layers at once, each in rows of its own; all weights are read for
every pass, which takes most of the time of models whose weights lie in files."""

READOUT_RANKS = (1.0, 0.75, 0.5)
"""Tokens whose logits are held against the one with the smallest: their places in order, as shares."""

SUMMED_STEPS, STORED_STEPS = 64, 8
"""How many rounding errors a rebuilt sum may differ by: of float32, in which sums are taken, relative to the terms of
the sum, which may cancel (6 were seen); and of the model's own type, in which results are stored, relative to the
largest (half of one was seen)."""


Passed = dict[int, tuple[Tensor, Tensor]]
"""Place of a port to what passed it, and what its module made of that."""


@dataclass(frozen=True)
class _Clean:
    """An untouched pass.

    Attributes:
        logits: at the last position, `[batch, vocabulary]`.
        z: what passed each port, `[batch, seq, count, width]`.
    """

    logits: Tensor
    z: Mapping[int, Tensor]

    @classmethod
    def of(cls, model: TorchModel, ports: Sequence[Port], ids: Tensor) -> _Clean:
        """One pass, read at all ports."""
        with reading(model.module, ports) as z:
            return cls(last_logits(model, ids), z)


def prove(model: TorchModel, ids: Tensor, kind: str = "head") -> None:
    """Runs every check on every port.

    Args:
        model: the model, in evaluation mode.
        ids: a few prompts of one length, `[batch, seq]`, on the model's device.
        kind: of the units.

    Raises:
        SiteError: lists every failure with its layer, module and check.
    """
    ports = replace(model, chosen=()).ports(kind)  # of all units, whichever are seen
    with torch.no_grad():
        # The later checks need what the earlier ones prove, so each group runs only where the one before it passed.
        failures = [*_modules_exist(model, ports)] or [*_run_once(model, ports, ids), *_finite(model, ids)]
        if not failures:
            clean, passed = _Clean.of(model, ports, ids), _passed(model, ports, ids)
            failures = [
                *_write_back(model, ports, ids, clean),
                *_ablation_matters(model, ports, ids, clean, kind),
                *_stands_in_front(model, ports, passed),
                *_rebuild_output(model, ports, passed, kind),
                *_experts_add_up(model, ports, ids),
                *_handed_on(model, ports, ids),
                *_readout(model, ids, clean.logits),
            ]
    if failures:
        raise SiteError(
            f"{model.name}: the hooks fail {len(failures)} proof(s), so no {kind} of this model can be measured:\n  "
            + "\n  ".join(failures)
        )


def _modules_exist(model: TorchModel, ports: Sequence[Port]) -> Iterator[str]:
    paths = {path for path, _ in model.module.named_modules(remove_duplicate=False)}
    for port in ports:
        if port.module not in paths:
            yield _failure(port, "z is readable", "there is no such module")
    output = model.structure.output_layer
    if output is None and model.quantity.function is None:
        yield _readout_failure(
            model,
            f"the model has no output embedding (unembedding), from which {model.quantity.name} is read; load it with "
            "its language-modelling head, or give a metric of your own, package.module:function",
        )
    elif output is not None and output not in paths:
        yield _readout_failure(model, "there is no such module")


def _run_once(model: TorchModel, ports: Sequence[Port], ids: Tensor) -> Iterator[str]:
    ways = [way for port in ports for way in _hooked(port)]
    calls = [0] * len(ways)
    misfits: set[int] = set()
    readouts: list[bool] = []

    def counter(place: int, width: int) -> Edit:
        def count(tensor: Tensor) -> None:
            calls[place] += 1
            if not isinstance(tensor, Tensor) or tensor.shape[-1] != width or tensor.numel() != ids.numel() * width:
                misfits.add(place)

        return count

    def note_readout(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        readouts.append(bool(arguments))

    with ExitStack() as stack:
        for place, (port, width) in enumerate(ways):
            stack.enter_context(editing(model.module, port, counter(place, width)))
        if _is_read(model):
            stack.enter_context(pre_hook(unembedding(model), note_readout))
        last_logits(model, ids)
    for place, (port, width) in enumerate(ways):
        if place in misfits:
            what = "first argument" if port.side == "input" else "output"
            yield _failure(port, "z is readable", f"its {what} is not [batch, seq, {width}]")
        elif calls[place] != 1:
            yield _failure(port, "z is readable", f"it ran {calls[place]} times in one forward pass instead of once")
    if _is_read(model) and not (readouts and all(readouts)):
        yield _readout_failure(model, "it is not called with the final hidden state in a forward pass")


def _hooked(port: Port) -> Iterator[tuple[Port, int]]:
    """Everywhere that a port's units are read or written, and how many numbers pass there."""
    yield port, port.width
    if port.source is not None and port.latents is not None:
        path, side = port.source
        yield Port(port.group, path, side), len(port.latents.encoder)


def _finite(model: TorchModel, ids: Tensor) -> Iterator[str]:
    """NaN equals nothing, itself included, so a model that gives it would fail every other check for a wrong reason."""
    if not last_logits(model, ids).isfinite().all():
        yield _readout_failure(model, "the model's logits are NaN or infinite; its weights or activations overflow")


def _write_back(model: TorchModel, ports: Sequence[Port], ids: Tensor, clean: _Clean) -> Iterator[str]:
    """Check 1: writing back what was read leaves the logits bit-identical.

    Everywhere at once; where that changes anything, and for latents, which do not say all that passes them, one by one.
    """
    if not any(port.latents for port in ports) and _all_written_back(model, ports, ids, clean):
        return
    for places in _together(ports):
        port = ports[places[0]]
        written = _written(model, ports, {place: clean.z[place] for place in places}, ids)
        if isinstance(written, str):
            yield _failure(port, "write back", written)
        elif not torch.equal(clean.logits, written):
            difference = (clean.logits - written).abs().max().item()
            yield _failure(
                port, "write back", f"writing back the z that was read changes logits by up to {difference:.3g}"
            )


def _all_written_back(model: TorchModel, ports: Sequence[Port], ids: Tensor, clean: _Clean) -> bool:
    """Whether writing everything back leaves the logits, and what arrives at any port before it is replaced.

    Without the latter a write could do harm that a later one undoes.
    """
    masks = {place: torch.ones(1, ports[place].group.count, dtype=torch.bool, device=ids.device) for place in clean.z}
    values = {place: z.view(*ids.shape, *z.shape[-2:]) for place, z in clean.z.items()}
    edits, kept = Edits(ports, masks, values), list[bool]()

    def noting(place: int) -> UnitEdit:
        write = edits.edit(place, sets=1)

        def edit(units: Tensor) -> Tensor | None:
            kept.append(torch.equal(units, clean.z[place]))
            return write(units)

        return edit

    try:
        with ExitStack() as stack:
            for place in clean.z:
                stack.enter_context(editing_units(model.module, ports[place], noting(place)))
            return torch.equal(clean.logits, last_logits(model, ids)) and all(kept)
    except CannotEditError:
        return False


def _ablation_matters(model: TorchModel, ports: Sequence[Port], ids: Tensor, clean: _Clean, kind: str) -> Iterator[str]:
    """Check 2: ablating a layer's units changes the logits.

    Several layers in one pass, each on a copy of the prompts, beside a copy that is left alone: where that one changes,
    rows notice each other, and each layer is ablated by itself. The pass is held against an untouched one of as many
    rows, because other numbers of rows round in other ways.
    """
    # These few prompts may turn none of a dictionary's latents on.
    found = [
        places for places in _together(ports) if ports[places[0]].latents is None or bool(clean.z[places[0]].any())
    ]
    size, untouched = max(1, (model.at_most(PROBE_ROWS) or PROBE_ROWS) // len(ids) - 1), dict[int, Tensor]()
    for start in range(0, len(found), size):
        some = found[start : start + size]
        zeros = {place: torch.zeros_like(clean.z[place]) for places in some for place in places}
        copies, same = len(some) + 1, [False]
        if len(some) > 1:
            if copies not in untouched:
                untouched[copies] = last_logits(model, ids.repeat(copies, 1))
            ablated = _written(model, ports, zeros, ids, _each_on_a_copy(ports, some, ids.device))
            same = _equal_copies(untouched[copies], ablated, copies)
        if not same[-1]:  # what cannot be put there has failed to be written back
            alone = (_written(model, ports, {place: zeros[place] for place in places}, ids) for places in some)
            same = [isinstance(logits, Tensor) and torch.equal(clean.logits, logits) for logits in alone]
        for places, is_idle in zip(some, same, strict=False):  # without the copy that is left alone
            if is_idle:
                yield _failure(
                    ports[places[0]],
                    "ablation matters",
                    f"zeroing all of the layer's {kind}s leaves the logits as they were",
                )


def _each_on_a_copy(ports: Sequence[Port], some: Sequence[Sequence[int]], device: torch.device) -> dict[int, Tensor]:
    """Masks of all units of each of some groups of ports, on a copy of the prompts of its own; one more has none."""
    masks = {}
    for number, places in enumerate(some):
        for place in places:
            masks[place] = torch.zeros(len(some) + 1, ports[place].group.count, dtype=torch.bool, device=device)
            masks[place][number] = True
    return masks


def _equal_copies(before: Tensor, after: Tensor | str, copies: int) -> list[bool]:
    """Of each copy of the prompts, whether its logits are the same; none is where there are none."""
    if isinstance(after, str):
        return [False] * copies
    pairs = zip(before.tensor_split(copies), after.tensor_split(copies), strict=True)
    return [torch.equal(one, other) for one, other in pairs]


def _together(ports: Sequence[Port]) -> list[list[int]]:
    """Places of ports that are proven at once: each by itself, but all experts of a layer, of which few are chosen."""
    found: dict[str | int, list[int]] = {}
    for place, port in enumerate(ports):
        found.setdefault(place if port.expert is None else port.module, []).append(place)
    return list(found.values())


def _written(
    model: TorchModel,
    ports: Sequence[Port],
    values: dict[int, Tensor],
    ids: Tensor,
    masks: Mapping[int, Tensor] | None = None,
) -> Tensor | str:
    """The logits with values in units of some groups, or why these cannot be put there.

    Args:
        model: the model.
        ports: of all groups.
        values: place of a group to `[batch, seq, count, width]`.
        ids: the prompts, `[batch, seq]`.
        masks: place of a group to the units that are replaced in each copy of the prompts, bool `[copies, count]`; by
            default all of them, of the prompts themselves.
    """
    if masks is None:
        masks = {
            place: torch.ones(1, ports[place].group.count, dtype=torch.bool, device=ids.device) for place in values
        }
    copies = len(next(iter(masks.values()), "-"))
    rows = {place: value.view(*ids.shape, *value.shape[-2:]) for place, value in values.items()}
    try:
        with Edits(ports, masks, rows).in_place(model.module, sets=copies):
            return last_logits(model, ids.repeat(copies, 1))
    except CannotEditError as error:
        return str(error)


def _rebuild_output(model: TorchModel, ports: Sequence[Port], passed: Passed, kind: str) -> Iterator[str]:
    """Check 3: where a plain float linear map reads the units, what they write adds up to its output."""
    for place, (z, output) in passed.items():
        port = ports[place]
        projection = model.module.get_submodule(port.module)
        matrix = float_matrix(projection)
        if matrix is None:
            continue
        per_unit = matrix.reshape(port.group.count, port.group.width, -1)
        rebuilt = torch.einsum("...hd,hdm->...m", port.split(z.double()), per_unit.double())
        bias = stored(projection, "bias")
        if bias is not None:
            rebuilt = rebuilt + bias.double()
        terms = z.float().abs() @ matrix.float().abs()
        error, allowed = _worst(rebuilt - output.double(), _rounding(output, output.dtype, terms))
        if not error <= allowed:
            detail = (
                f"the sum over {kind}s of z W_O differs from its output by {error:.3g} (rounding explains "
                f"{allowed:.3g})"
            )
            yield _failure(port, f"{kind}s rebuild the output", detail)


def _experts_add_up(model: TorchModel, ports: Sequence[Port], ids: Tensor) -> Iterator[str]:
    """Check 3 of experts in a stack: what all their neurons write adds up to what the router's choice puts out."""
    for places in _together(ports):
        port = ports[places[0]]
        if port.expert is None:
            continue
        experts = model.module.get_submodule(port.module)
        routed, output = routed_of(experts, lambda: last_logits(model, ids))
        matrices = down_matrices(experts).double()
        rebuilt, terms = torch.zeros_like(output, dtype=torch.float64), torch.zeros_like(output)
        for place in places:
            number = ports[place].expert.number  # type: ignore[union-attr]  # all of them are of experts
            values = routed.values(number)[..., 0]
            rebuilt += values.double() @ matrices[number]
            terms += values.abs() @ matrices[number].abs().float()
        bias = getattr(experts, f"{DOWN}_bias", None)
        if bias is not None:
            rebuilt += (bias[routed.chosen].double() * routed.weights.double()[..., None]).sum(1)
        error, allowed = _worst(rebuilt - output.double(), _rounding(output, output.dtype, terms))
        if not error <= allowed:
            detail = (
                f"what the neurons of all experts write differs from their output by {error:.3g} (rounding explains "
                f"{allowed:.3g})"
            )
            yield _failure(port, "experts add up", detail)


def _stands_in_front(model: TorchModel, ports: Sequence[Port], passed: Passed) -> Iterator[str]:
    """What is read is what attention computed: the projection makes of it, once more, what it made in the pass.

    A release may turn or scale a projection's input by a hook of its own. What is read behind that hook would go
    through it twice here.
    """
    for place, (z, output) in passed.items():
        port = ports[place]
        again = model.module.get_submodule(port.module)(z)
        error, allowed = _worst(again.double() - output.double(), _rounding(output, output.dtype))
        if not error <= allowed:
            detail = (
                f"its output cannot be rebuilt from what was read: {error:.3g} off (rounding explains {allowed:.3g})"
            )
            yield _failure(port, "z is what attention computed", detail)


def _handed_on(model: TorchModel, ports: Sequence[Port], ids: Tensor) -> Iterator[str]:
    """What is written behind a layer in the place of the next one's input is what that layer is given."""
    sites = model.structure.layers
    for port in ports:
        if port.layer == port.group.layer or port.layer < 0:
            continue
        handed, given = list[Tensor](), list[Any]()

        def keep(tensor: Tensor, kept: list[Tensor] = handed) -> None:
            kept.append(tensor.clone())

        def note(_: nn.Module, arguments: Any, keywords: Any, kept: list[Any] = given) -> None:
            kept.append((arguments[0] if arguments else keywords.get("hidden_states")).clone())

        layer = model.module.get_submodule(sites[port.group.layer].path)
        with editing(model.module, port, keep), pre_hook(layer, note, with_kwargs=True):
            last_logits(model, ids)
        if not torch.equal(handed[0], given[0]):
            yield _failure(port, "stream is handed on", f"layer {port.group.layer} is given something else")


def float_matrix(projection: nn.Module) -> Tensor | None:
    """The `[in, out]` matrix of a plain floating-point linear map, or None for anything else.

    One with hooks of its own does more to its input than its weight says.
    """
    weight = plain_weight(projection)
    if weight is None or projection._forward_pre_hooks or projection._forward_hooks:
        return None
    if isinstance(projection, nn.Linear):
        return weight.detach().T
    return weight.detach() if isinstance(projection, Conv1D) else None


def _passed(model: TorchModel, ports: Sequence[Port], ids: Tensor) -> Passed:
    """What passes the ports in front of linear maps in one pass, and what these make of it."""
    given, made = dict[int, Tensor](), dict[int, Tensor]()

    def keep(place: int) -> Edit:
        def read(tensor: Tensor) -> None:
            given[place] = tensor.clone()

        return read

    def note(place: int) -> Callable[[nn.Module, Any, Tensor], None]:
        def read(_: nn.Module, __: Any, output: Tensor) -> None:
            made[place] = output.clone()

        return read

    with ExitStack() as stack:
        for place, port in enumerate(ports):
            if port.side == "input" and port.latents is None:
                stack.enter_context(editing(model.module, port, keep(place)))
                stack.enter_context(post_hook(model.module.get_submodule(port.module), note(place)))
        last_logits(model, ids)
    return {place: (given[place], made[place]) for place in given}


def _readout(model: TorchModel, ids: Tensor, logits: Tensor) -> Iterator[str]:
    """The metric that is read from the unembedding is a difference of the model's own logits.

    Of several pairs of tokens, because a transform that is not known may agree by chance on one.
    """
    if not _is_read(model) or (rows := float_rows(unembedding(model))) is None:
        return
    order = logits.argsort(-1)
    hidden, stored = final_hidden(model, ids), rows[0].dtype  # float32 logits may be of float16 ones
    foil = order[:, :1].expand(-1, len(READOUT_RANKS))
    answer = order[:, [int(rank * (order.shape[1] - 1)) for rank in READOUT_RANKS]]
    own = logits.double().gather(1, answer) - logits.double().gather(1, foil)
    pairs = zip(answer.T, foil.T, strict=True)
    found = torch.stack([logit_difference(model, hidden, *pair).double() for pair in pairs], 1)
    weight = rows[0]
    terms = ((weight[answer].float().abs() + weight[foil].float().abs()) * hidden.float().abs()[:, None]).sum(-1)
    error, allowed = _worst(own - found, _rounding(logits, stored, terms))
    if not error <= allowed:
        yield _readout_failure(
            model,
            f"logits differ from the unembedding of the final hidden state by {error:.3g} (rounding explains "
            f"{allowed:.3g}); the model scales or caps its logits in a way that is not known",
        )


def _is_read(model: TorchModel) -> bool:
    """Whether the metric is read from the unembedding, and not by a function from whatever the model puts out."""
    return model.structure.output_layer is not None and model.quantity.function is None


def _rounding(values: Tensor, stored: torch.dtype, terms: Tensor | None = None) -> Tensor:
    """How far a rebuilt sum, whose terms are of type `stored`, may be off `values`, in their unit, for each value.

    Args:
        values: what is rebuilt.
        stored: the type of what is summed.
        terms: the sum of all magnitudes behind each value, where they are known.
    """
    largest = values.double().abs().max().clamp_min(1e-30)
    summed = largest if terms is None else terms.double().maximum(largest)
    return SUMMED_STEPS * torch.finfo(torch.float32).eps * summed + STORED_STEPS * torch.finfo(stored).eps * largest


def _worst(difference: Tensor, allowed: Tensor) -> tuple[float, float]:
    """The difference that is largest beside what is allowed of it, and that; NaN where any is."""
    error, allowed = difference.abs().flatten(), allowed.expand_as(difference).flatten()
    place = int((error / allowed).nan_to_num(nan=torch.inf).argmax())
    return error[place].item(), allowed[place].item()


def _failure(port: Port, check: str, detail: str) -> str:
    return f"layer {port.group.layer}, module {port.module}, check {check!r}: {detail}"


def _readout_failure(model: TorchModel, detail: str) -> str:
    return f"output layer, module {model.structure.output_layer or 'none'}, check 'readout': {detail}"
