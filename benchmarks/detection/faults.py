"""Seeded faults that a gate must see: edits in float32, known by themselves, which are then rounded plainly.

So that a gate sees each behind the rounding noise of the precision that it claims.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from itertools import combinations
from typing import Any

import torch
from torch import nn

from circuitcheck.core.units import Unit
from detection import quantizing, surgery
from detection.anatomy import head_channels, head_counts, head_maps, layers_of, matrix
from detection.bases import change_basis
from detection.family import Family, Job, Touched, plainly
from detection.healing import Healing, healed
from detection.lookalikes import LOOK_ALIKES, plant
from detection.subjects import load
from detection.truth import circuit_heads, shares_of

EVERY, TRAINED = ("f32", "8-bit", "4-bit"), ("8-bit", "4-bit")
"""What faults claim; what was trained moves every weight, so that it is no f32 in any case."""

Damage = Callable[[nn.Module], None]


def _pruned(job: Job) -> Touched:
    head = job.head()
    surgery.scale_head(job.module, head, 0.0)
    return {head: 1.0}


def _scaled(job: Job) -> Touched:
    head, factor = job.head(), job.choice(0.5, 1.4, 2.0, 0.3, 0.7)
    surgery.scale_head(job.module, head, factor)
    return {head: abs(1 - factor)}


def _miswired(job: Job) -> Touched:
    head = job.head()
    other = job.neighbour(head)
    surgery.miswire_heads(job.module, head, other)
    return {head: 1.0, other: 1.0}


STOPS = (200, 500)
"""Steps at which a training is kept; the last ones come nearly as close to the reference as rounding to 4 bits does."""


def _trained(job: Job, kind: str, heads: tuple[Unit, ...], damage: Damage, **options: Any) -> float:
    """Loads what comes of a training, kept at two stops that take turns; gives what part of the heads is lost."""
    where = "+".join(f"{layer}.{head}" for layer, head in heads)
    healing = Healing(f"{kind}-{job.model.name}-{where}", damage, STOPS, **options)
    stop = job.choice(*STOPS)
    weights = healed(healing, job.model.module, stop, job.cache / "weights", job.model.text)
    job.module.load_state_dict(weights)
    return 1 - healing.allowance(stop) if healing.starved else 1.0


def _heads_of_training(job: Job, count: int) -> tuple[Unit, ...]:
    """Heads of circuits, others for each training.

    Raises:
        LookupError: there are no more.
    """
    some = list(combinations(circuit_heads(shares_of(job.model)), count))
    turn = job.seed // len(STOPS)
    if turn >= len(some):
        raise LookupError(f"there are no more than {len(some)} times {count} heads in circuits")
    return some[turn]


def _pruned_and_healed(job: Job, *, count: int) -> Touched:
    heads = _heads_of_training(job, count)
    _trained(job, "pruned", heads, partial(surgery.prune_heads, heads=heads), silenced=heads, seed=200)
    return dict.fromkeys(heads, 1.0)


def _moved(job: Job) -> Touched:
    (head,) = _heads_of_training(job, 1)
    return {head: _trained(job, "moved", (head,), lambda _: None, starved=(head,), seed=100)}


def _miswired_and_healed(job: Job) -> Touched:
    (head,) = _heads_of_training(job, 1)
    other = (head[0], (head[1] + 1) % head_counts(job.module)[0])
    damage = partial(surgery.miswire_heads, one=head, other=other)
    _trained(job, "miswired", (head, other), damage, seed=300)
    return {head: 1.0, other: 1.0}


def _look_alike(job: Job) -> Touched:
    name, head = job.choice(*LOOK_ALIKES), job.head()
    other = job.neighbour(head)
    plant(job.module, name, head, other, job.seed)
    if job.seed % 2:
        change_basis(job.module, job.rng.choice(("heads rotated", "stream rotated")), job.seed)
    touched = (head, other) if "swapped" in name else (head,)
    return dict.fromkeys(touched, LOOK_ALIKES[name].takes)


def _coarse(job: Job, bits: int) -> Touched:
    surgery.round_projection(job.module, job.rng.choice(surgery.paths_of(job.module)), bits)
    return {}


def _placed_wrongly(job: Job) -> Touched:
    try:
        surgery.shift_positions(job.module, job.choice(1, -1, 2))
    except LookupError:
        usual = job.model.module.config.rope_parameters["rope_theta"]
        surgery.set_rotary_base(job.module, usual * job.choice(0.01, 0.1, 0.3, 10.0))
    return {}


def _averaged(job: Job) -> Touched:
    layer, share = job.rng.randrange(job.layers), job.choice(0.5, 0.9, 0.3, 0.7)
    surgery.replace_by_mean(job.module, layer, share, job.model.calibration)
    return {(layer, head): share for head in range(head_counts(job.module)[0])}


def _adapter_in_a_head(job: Job) -> Touched:
    head, size = job.head(), job.choice(0.5, 1.0, 0.3)
    maps = head_maps(job.module, head[0])
    part = job.choice("outputs", "values", "queries", "keys")
    group = head[1] // maps.per_group
    weight = (
        maps.outputs[head[1]]
        if part == "outputs"
        else getattr(maps, part)[head[1] if part == "queries" else group].weight
    )
    surgery.merge_adapter(weight, 2, size, job.generator)
    heads = [head[1]] if part in ("outputs", "queries") else list(maps.members(group))
    return {(head[0], one): size for one in heads}


def _noise_in_a_head(job: Job) -> Touched:
    head, size = job.head(), job.choice(0.5, 0.25, 0.75)
    output = surgery.output_columns(job.module, head)
    surgery.merge_adapter(output, output.shape[1], size, job.generator)
    return {head: size}


def _coarse_cache(job: Job) -> Touched:
    quantizing.round_cache(job.module, job.choice(2, 3))
    return {}


def _clipped(job: Job) -> Touched:
    surgery.clip_outliers(job.module, job.choice(1.0, 1.5, 0.7), job.part())
    return {}


def _wrong_scale(job: Job) -> Touched:
    path = job.rng.choice(surgery.paths_of(job.module))
    rows, inputs = matrix(job.module.get_submodule(path)).shape
    across = job.seed % 2 == 0
    count = max(1, (rows if across else inputs) // job.choice(4, 4, 8, 2))
    start = job.rng.randrange(0, (rows if across else inputs) - count + 1)
    some, everything = slice(start, start + count), slice(None)
    where = (some, everything) if across else (everything, some)
    surgery.scale_block(job.module, path, *where, job.choice(0.5, 2.0, 1.5, 0.7, 4.0))
    return {}


def _scales_shifted(job: Job) -> Touched:
    path = job.rng.choice(surgery.paths_of(job.module))
    weight = matrix(job.module.get_submodule(path))
    surgery.shift_scales(job.module, path, 16 if weight.shape[1] % 16 == 0 else 4)
    return {}


def _biases_dropped(job: Job) -> Touched:
    paths = job.part()
    if job.seed % 2 == 0:
        inputs = {id(one.linear) for layer in range(job.layers) for one in head_channels(job.module, layer)[0]}
        paths = [path for path in surgery.paths_of(job.module) if id(job.module.get_submodule(path)) in inputs]
    surgery.drop_biases(job.module, paths)
    return {}


def _masked(job: Job) -> Touched:
    layers = range(job.layers) if job.seed % 4 == 3 else [job.rng.randrange(job.layers)]
    surgery.mask_wrongly(job.module, job.choice(*surgery.MASKS), layers)
    return {}


def _regrouped(job: Job) -> Touched:
    layer, what = job.rng.randrange(job.layers), job.choice("interleaved", "keys", "values", "both")
    if what == "interleaved" and len(set(head_counts(job.module))) == 2:
        surgery.interleave_queries(job.module, layer)
    else:
        surgery.regroup_queries(job.module, layer, "both" if what == "interleaved" else what)
    return {(layer, head): 1.0 for head in range(head_counts(job.module)[0])}


def _layer_of_another(job: Job) -> Touched:
    """Of a model of another seed where there is one; else of the same, trained on."""
    if job.model.sibling and job.seed % 2:
        other = job.model.once("sibling", lambda: load(job.model.sibling, job.cache / "models")).module  # type: ignore[arg-type]
    else:
        other = _trained_on(job)
    layer = job.rng.randrange(job.layers)
    surgery.take_layer(job.module, other, layer)
    return {}


FURTHER_STEPS, FURTHER_RATE = 60, 1e-3


def _trained_on(job: Job) -> nn.Module:
    """Trained on its own text for some more steps, as the next checkpoint of a training."""

    def train() -> nn.Module:
        module = deepcopy(job.model.module).requires_grad_(True)
        optimizer = torch.optim.Adam(module.parameters(), lr=FURTHER_RATE)
        text = torch.cat([next(job.model.text(30_000 + number)) for number in range(4)])
        generator = torch.Generator().manual_seed(0)
        for _ in range(FURTHER_STEPS):
            ids = text[torch.randperm(len(text), generator=generator)[:32]]
            optimizer.zero_grad()
            module(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
        return module.requires_grad_(False)

    return job.model.once("trained on", train)  # type: ignore[no-any-return]


def _weights_pruned(job: Job, share: float | None) -> Touched:
    surgery.prune_weights(job.module, share, job.part())
    return {}


def _gains_dropped(job: Job) -> Touched:
    norms = 2 * job.layers + 1
    surgery.drop_gains(job.module, range(norms) if job.seed % 4 == 3 else [job.rng.randrange(norms)])
    return {}


def _truncated(job: Job) -> Touched:
    surgery.truncate_vocabulary(job.module, int(job.module.config.vocab_size * job.choice(0.9, 0.5, 0.7, 0.97)))
    return {}


def _layers_exchanged(job: Job) -> Touched:
    first = job.rng.randrange(job.layers - 1)
    layers = layers_of(job.module)
    kept = deepcopy(layers[first].state_dict())
    layers[first].load_state_dict(layers[first + 1].state_dict())
    layers[first + 1].load_state_dict(kept)
    return {}


def _family(name: str, edit: Callable[[Job], Touched], precisions: tuple[str, ...] = EVERY, seeds: int = 8) -> Family:
    return Family(name, False, edit, plainly, precisions, seeds)


FAULTS = (
    _family("head pruned", _pruned),
    _family("head scaled", _scaled),
    _family("heads miswired", _miswired),
    _family("head pruned, healed", partial(_pruned_and_healed, count=1), TRAINED, seeds=6),
    _family("two heads pruned, healed", partial(_pruned_and_healed, count=2), TRAINED, seeds=6),
    _family("heads miswired, healed", _miswired_and_healed, TRAINED, seeds=4),
    _family("task moved by a fine-tune", _moved, TRAINED, seeds=6),
    _family("look-alike", _look_alike, seeds=2 * len(LOOK_ALIKES)),
    _family("map at 2 bits", partial(_coarse, bits=2), ("8-bit", "4-bit")),
    _family("map at 3 bits", partial(_coarse, bits=3), ("8-bit",)),
    _family("wrong positions", _placed_wrongly, seeds=4),
    _family("attention replaced by its mean", _averaged),
    _family("adapter in a head", _adapter_in_a_head, seeds=12),
    _family("noise in a head", _noise_in_a_head),
    _family("cache at 2 or 3 bits", _coarse_cache, ("8-bit", "4-bit"), seeds=2),
    _family("clipped outliers", _clipped),
    _family("wrong scale of a block", _wrong_scale, seeds=20),
    _family("scales of other groups", _scales_shifted),
    _family("biases dropped", _biases_dropped),
    _family("mask off by one", _masked),
    _family("wrong keys and values", _regrouped),
    _family("layer of another checkpoint", _layer_of_another),
    _family("2:4 pruned", partial(_weights_pruned, share=None), seeds=4),
    _family("half of the weights pruned", partial(_weights_pruned, share=0.5), seeds=4),
    _family("some weights pruned", partial(_weights_pruned, share=0.2), seeds=4),
    _family("gains of norms dropped", _gains_dropped),
    _family("vocabulary truncated", _truncated, seeds=4),
    _family("layers exchanged", _layers_exchanged, seeds=3),
)
