"""Seeded faults of the embedded model that a gate must see, sized by what they take from the reference's circuits.

Every fault is planted in float32 and then quantized as a release would be, so that a gate sees it behind rounding noise
of the precision that it claims. Most claim 4 bits, whose limits on drift are the widest.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import combinations, product
from pathlib import Path

from torch import nn

from circuitcheck.baseline.recording import Recording
from circuitcheck.core.units import Unit
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from detection import surgery
from detection.bases import change_basis
from detection.candidate import LabelledCandidate
from detection.healing import Healing, healed
from detection.lookalikes import LOOK_ALIKES, plant
from detection.rounding import round_to
from detection.texts import evaluation_text
from detection.truth import (
    Shares,
    attention_moved,
    circuit_heads,
    importance_shares,
    minor_heads,
    mlp_shares,
    rounding_error,
    severities,
    truth_of,
    unused_heads,
)

STOPS, STOPS_OF_PAIRS = (150, 250, 400), (200, 400, 600)
"""Steps at which a healing is kept; the last ones come as close to the reference as rounding to 4 bits does."""

STARVED_STOPS = (200, 400)
PAIRS_OF_A_TASK, OF_A_CIRCUIT = 3, 6
"""Pairs of heads pruned for each task, drawn among its largest heads."""

FACTORS = (0.3, 0.5, 0.7, 1.4, 2.0)
MEAN_SHARES = (0.3, 0.5, 0.7, 0.9)
ROTARY_BASES = (3.0, 10.0, 30.0, 100.0, 1e3, 1e5)
CLAIMS = ("int4-rtn", "int8-rtn")
DISGUISES = ("heads rotated", "stream rotated")
"""Changes of basis that a look-alike hides behind."""


Edit = Callable[[HookedModel], None]


class Planter:
    """Makes labelled candidates from a reference.

    Attributes:
        reference: the embedded model in float32; it is left as it was found.
        baselines: task to what was recorded of the reference.
        cache: where trained weights are kept.
        shares: task to head to share of the largest importance.
    """

    def __init__(self, reference: HookedModel, baselines: Mapping[str, Recording], cache: Path) -> None:
        self.reference, self.baselines, self.cache = reference, baselines, cache
        self.shares: Shares = importance_shares(baselines)

    def plant(
        self, family: str, variant: str, severity: Mapping[str, float], edit: Edit, claim: str
    ) -> LabelledCandidate:
        """A candidate that is edited in float32 and then quantized to what it claims."""
        truth, tasks = truth_of(severity)
        return LabelledCandidate(
            name=f"{family}, {variant}, {claim}",
            kind="fault",
            family=family,
            truth=truth,
            tasks=tasks,
            precision=claim,
            build=partial(self._build, edit, claim),
            severity=max(severity.values()),
        )

    def heal(self, family: str, healing: Healing, heads: Sequence[Unit], claim: str) -> Iterator[LabelledCandidate]:
        """A candidate for every step at which the training is kept; `heads` are what it takes from the circuits."""
        for stop in healing.stops:
            part = 1 - healing.allowance(stop) if healing.starved else 1.0
            severity = self.taken(*heads, part=part) if heads else dict.fromkeys(self.shares, 0.0)
            candidate = self.plant(
                family, f"{healing.name} {stop} steps", severity, self._trained(healing, stop), claim
            )
            yield replace(candidate, run=healing.name)

    def taken(self, *heads: Unit, part: float = 1.0) -> dict[str, float]:
        """Severity of a fault that changes a part of what these heads do."""
        return severities(self.shares, dict.fromkeys(heads, part))

    def layer(self, layer: int) -> list[Unit]:
        """A layer's heads."""
        return [head for head in self.reference.layout("head").units if head[0] == layer]

    def _trained(self, healing: Healing, stop: int) -> Edit:
        def load(model: HookedModel) -> None:
            model.module.load_state_dict(healed(healing, self.reference.module, stop, self.cache))

        return load

    def _build(self, edit: Edit, claim: str) -> HookedModel:
        model = replace(self.reference, module=deepcopy(self.reference.module), precision=claim)
        edit(model)
        round_to(model.module, claim)
        return model


def faults(reference: HookedModel, baselines: Mapping[str, Recording], cache: Path) -> list[LabelledCandidate]:
    """All faults, also minor ones and those in heads that no task uses.

    Args:
        reference: the embedded model.
        baselines: task to what was recorded of it; what is in a circuit is read from their importances.
        cache: directory in which trained weights are kept and found again.
    """
    planter = Planter(reference, baselines, cache)
    makers = (pruned, moved, swapped, scaled, look_alikes, coarse, rotary, averaged, unused, minor, controls)
    return [candidate for maker in makers for candidate in maker(planter)]


def _silenced(name: str, heads: Sequence[Unit], stops: tuple[int, ...], seed: int) -> Healing:
    damage = partial(surgery.prune_heads, heads=heads)
    return Healing(name, damage, stops, silenced=tuple(heads), seed=seed)


def pruned(planter: Planter) -> Iterator[LabelledCandidate]:
    """Circuit heads and pairs of them pruned, the model healed until its outputs are the reference's again."""
    sets: list[tuple[Unit, ...]] = [(head,) for head in circuit_heads(planter.shares)]
    for task, of in sorted(planter.shares.items()):
        largest = sorted(of, key=lambda head: -of[head])[:OF_A_CIRCUIT]
        pairs = list(combinations(sorted(largest), 2))
        sets += random.Random(f"pairs of {task}").sample(pairs, PAIRS_OF_A_TASK)
    for seed, heads in enumerate(dict.fromkeys(sets)):
        stops = STOPS_OF_PAIRS if len(heads) > 1 else STOPS
        healing = _silenced(f"pruned-{_named(heads)}", heads, stops, seed)
        claims = CLAIMS if len(heads) > 1 else CLAIMS[:1]
        for claim in claims:
            yield from planter.heal("heads pruned, healed", healing, heads, claim)


def moved(planter: Planter) -> Iterator[LabelledCandidate]:
    """A fine-tune that drives a circuit head out, so that the task moves to others; the head itself stays alive."""
    for seed, head in enumerate(circuit_heads(planter.shares)[:5]):
        healing = Healing(f"moved-{_named([head])}", _unchanged, STARVED_STOPS, starved=(head,), seed=100 + seed)
        yield from planter.heal("task moved by a fine-tune", healing, [head], CLAIMS[0])


def swapped(planter: Planter) -> Iterator[LabelledCandidate]:
    """Two heads of a layer in each other's place, which the output projection reads as before; some healed."""
    heads = circuit_heads(planter.shares)
    rng = random.Random("swapped")
    for number, head in enumerate(heads):
        other = rng.choice([one for one in planter.layer(head[0]) if one != head])
        claim, severity = CLAIMS[number % 2], planter.taken(head, other)
        where = _named([head, other])
        miswire = partial(surgery.miswire_heads, one=head, other=other)
        yield planter.plant("heads miswired", where, severity, partial(_edit_module, miswire), claim)
        if number < 3:
            healing = Healing(f"miswired-{where}", miswire, STOPS, seed=200 + number)
            yield from planter.heal("heads miswired, healed", healing, [head, other], CLAIMS[0])


def scaled(planter: Planter) -> Iterator[LabelledCandidate]:
    """One circuit head's output scaled."""
    for number, head in enumerate(circuit_heads(planter.shares)):
        for factor in FACTORS[number % 2 :: 2]:
            edit = partial(_edit_module, partial(surgery.scale_head, head=head, factor=factor))
            severity = planter.taken(head, part=abs(1 - factor))
            yield planter.plant("head scaled", f"{_named([head])} times {factor:g}", severity, edit, CLAIMS[number % 2])


def look_alikes(planter: Planter) -> Iterator[LabelledCandidate]:
    """Edits of one head that look like a change of basis, behind one."""
    heads = circuit_heads(planter.shares)
    rng = random.Random("look-alikes")
    for number, (name, basis, claim) in enumerate(product(LOOK_ALIKES, DISGUISES, CLAIMS)):
        head = heads[number % len(heads)]
        other = rng.choice([one for one in planter.layer(head[0]) if one != head])
        touched = (head, other) if "swapped" in name else (head,)
        edit = partial(_edit_module, partial(disguise, name=name, head=head, other=other, basis=basis))
        severity = planter.taken(*touched, part=LOOK_ALIKES[name].takes)
        yield planter.plant("look-alike", f"{name} in {_named(touched)}, {basis}", severity, edit, claim)


def disguise(module: nn.Module, name: str, head: Unit, other: Unit, basis: str) -> None:
    """Plants a look-alike and changes the basis of what comes of it."""
    plant(module, name, head, other)
    change_basis(module, basis)


def coarse(planter: Planter) -> Iterator[LabelledCandidate]:
    """One projection at 2 or 3 bits in a release that claims 8.

    A fault wherever it touches a circuit, however small its error, which is random and moves a circuit much less than
    an edit of the same size; the severity counts the share of its output that is rounding error.
    """
    of_mlp = mlp_shares(planter.reference, planter.baselines)
    for site in planter.reference.structure.layers:
        of_attention = planter.taken(*planter.layer(site.layer))
        of_layer = {task: share[site.layer] for task, share in of_mlp.items()}
        for names, share in ((surgery.ATTENTION_PROJECTIONS, of_attention), (surgery.MLP_PROJECTIONS, of_layer)):
            for name, bits in product(names, (2, 3)):
                edit = partial(surgery.round_projection, layer=site.layer, projection=name, bits=bits)
                error = rounding_error(planter.reference, f"{site.path}.{name}", bits, evaluation_text())
                variant = f"layer {site.layer} {name}"
                family = f"projection at {bits} bits"
                candidate = planter.plant(family, variant, share, partial(_edit_module, edit), "int8-rtn")
                yield replace(candidate, severity=error * candidate.severity)


def rotary(planter: Planter) -> Iterator[LabelledCandidate]:
    """A wrong rotary base; what it takes from a head is the share of its attention that goes elsewhere."""
    for number, base in enumerate(ROTARY_BASES):
        edit = partial(_edit_module, partial(surgery.set_rotary_base, base=base))
        model = replace(planter.reference, module=deepcopy(planter.reference.module))
        edit(model)
        severity = {
            task: severities({task: planter.shares[task]}, attention_moved(planter.reference, model, baseline))[task]
            for task, baseline in planter.baselines.items()
        }
        yield planter.plant("wrong rotary base", f"{base:g}", severity, edit, CLAIMS[number % 2])


def averaged(planter: Planter) -> Iterator[LabelledCandidate]:
    """A share of a layer's attention replaced by its mean over the corpus."""
    for site in planter.reference.structure.layers:
        for number, share in enumerate(MEAN_SHARES):
            edit = partial(surgery.replace_by_mean, layer=site.layer, share=share, ids=evaluation_text())
            severity = planter.taken(*planter.layer(site.layer), part=share)
            variant = f"{share:g} of layer {site.layer}"
            yield planter.plant("attention replaced by its mean", variant, severity, edit, CLAIMS[number % 2])


def unused(planter: Planter) -> Iterator[LabelledCandidate]:
    """Heads that no task uses: pruned, doubled, swapped."""
    for number, head in enumerate(unused_heads(planter.baselines)):
        for factor in (0.0, 2.0):
            edit = partial(_edit_module, partial(surgery.scale_head, head=head, factor=factor))
            variant = f"{_named([head])} times {factor:g}"
            yield planter.plant("unused head scaled", variant, planter.taken(head), edit, CLAIMS[number % 2])


def minor(planter: Planter) -> Iterator[LabelledCandidate]:
    """Heads that a task uses and that are in no circuit, pruned: how small a fault can be and still be seen."""
    for number, head in enumerate(minor_heads(planter.shares)):
        edit = partial(_edit_module, partial(surgery.scale_head, head=head, factor=0.0))
        yield planter.plant("minor head pruned", _named([head]), planter.taken(head), edit, CLAIMS[number % 2])


def controls(planter: Planter) -> Iterator[LabelledCandidate]:
    """The same training without a fault: whether a gate sees the fault or only that something was trained."""
    for seed in (300, 301):
        healing = Healing(f"undamaged-{seed}", _unchanged, STOPS, seed=seed)
        for candidate in planter.heal("trained, no fault", healing, [], CLAIMS[0]):
            yield replace(candidate, truth="control")


def _edit_module(edit: Callable[[nn.Module], None], model: HookedModel) -> None:
    edit(model.module)


def _unchanged(_: nn.Module) -> None:
    """No damage."""


def _named(heads: Sequence[Unit]) -> str:
    return "+".join(f"{layer}.{head}" for layer, head in heads)
