"""Baselines, measurements and report entries made of given numbers: no model runs."""

from __future__ import annotations

from dataclasses import astuple, replace
from math import nan
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.baseline.noise_floor import MEASURES
from circuitcheck.core.activations import ZCache
from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.core.results import Circuit, HeadMeasure, Measurement, Ranking, Repair
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.diagnostics.association import Association
from circuitcheck.stats.estimate import Estimate
from circuitcheck.stats.first_order import BoundAudit, PerPrompt

LAYERS, HEADS, D_HEAD = 2, 2, 3
KINDS = ("resample", "mean", "zero")


def make_task(prompts: int = 6, name: str = "synthetic", clusters: int = 6) -> Task:
    """Prompts of 2 and 3 tokens in turn."""
    pairs = []
    for number in range(prompts):
        clean = (number % 7, number, 5)[: 2 + number % 2]
        pairs.append(PromptPair(clean, (9, *clean[1:]), answer=1, foil=2, cluster=f"c{number % clusters}"))
    return Task(name, tuple(pairs))


def make_baseline(seed: int = 0, **changes: Any) -> Baseline:
    """Six prompts, all solved, two layers of two heads."""
    rng = np.random.default_rng(seed)
    task = changes.pop("task", make_task())
    solved = tuple(range(len(task.pairs)))
    lengths = tuple(len(pair.clean) for pair in task.pairs)

    def cache() -> ZCache:
        shape = (sum(lengths), HEADS, D_HEAD)
        layers = tuple(torch.from_numpy(rng.normal(size=shape).astype(np.float32)) for _ in range(LAYERS))
        return ZCache(solved, lengths, layers)

    metric = rng.uniform(3, 5, len(task.pairs)).astype(np.float32)
    known = Baseline(
        model="made-up",
        architecture={"class": "MadeUp", "n_layers": LAYERS, "n_heads": HEADS, "d_head": D_HEAD},
        task=task,
        spec=MeasurementSpec(),
        fingerprints={"weights": "a" * 64, "tokenizer": "b" * 64},
        heads=tuple((layer, head) for layer in range(LAYERS) for head in range(HEADS)),
        measured=tuple((layer, head) for layer in range(LAYERS) for head in range(HEADS)),
        metric=metric,
        counterfactual=-metric,
        solved=solved,
        ablated={kind: rng.normal(size=(LAYERS * HEADS, len(solved))).astype(np.float32) for kind in KINDS},
        z=cache(),
        gradient=cache(),
        ceiling=0.9,
        noise={"AVX2": {"one thread": dict.fromkeys(MEASURES, 1e-7)}},
        environment={
            "device": "cpu",
            "instruction_set": "AVX2",
            "libraries": {"torch": "1", "numpy": "2"},
            "python": "3",
        },
        reason="because",
        notes=("noted",),
    )
    return replace(known, **changes)


def with_importance(baseline: Baseline, importance: list[float]) -> Baseline:
    """The same with every head's ablation costing exactly this much on every prompt."""
    clean = baseline.metric[list(baseline.solved)]
    ablated = (clean[None] - np.array(importance, np.float32)[:, None]).astype(np.float32)
    return replace(baseline, ablated=dict.fromkeys(KINDS, ablated))


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
SHARES = st.floats(0, 1, exclude_min=True, exclude_max=True)


@st.composite
def specs(draw) -> MeasurementSpec:
    """Any specification, floats of all digits included."""
    return MeasurementSpec(
        ablation=draw(st.sampled_from(KINDS)),
        positions=draw(st.sampled_from(["all", "answer"])),
        part=draw(st.integers(1, 100)),
        margin=draw(st.floats(0, 1e9)),
        minimum_solved=draw(SHARES),
        minimum_clusters=draw(st.integers(1, 9)),
        draws=draw(st.integers(100, 200)),
        persistence=draw(SHARES),
        sweep=draw(st.sampled_from(["exact", "screened"])),
        seed=draw(st.integers(0, 2**31)),
    )


@st.composite
def baselines(draw) -> Baseline:
    """Any baseline: words in any script, any finite numbers, any number of solved prompts, none included."""
    words = st.text(max_size=8)
    changes = st.dictionaries(words, st.floats(0, 1e6), max_size=3)
    tokens = st.integers(0, 2**31 - 1)
    lengths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    pairs = [
        PromptPair(
            tuple(draw(st.lists(tokens, min_size=length, max_size=length))),
            tuple(draw(st.lists(tokens, min_size=length, max_size=length))),
            draw(tokens),
            draw(tokens),
            draw(words),
        )
        for length in lengths
    ]
    solved = tuple(sorted(draw(st.sets(st.sampled_from(range(len(pairs)))))))
    spec = draw(specs())
    part = solved[: spec.part]
    kept = tuple(lengths[place] if spec.positions == "all" else 1 for place in part)
    layers, heads, d_head = (draw(st.integers(1, 2)) for _ in range(3))

    def cache() -> ZCache:
        values = [draw(arrays(np.float32, (sum(kept), heads, d_head), elements=FLOATS)) for _ in range(layers)]
        return ZCache(part, kept, tuple(torch.from_numpy(value) for value in values))

    numbers = arrays(np.float32, len(pairs), elements=FLOATS)
    all_heads = tuple((layer, head) for layer in range(layers) for head in range(heads))
    measured = tuple(sorted(draw(st.sets(st.sampled_from(all_heads), min_size=1))))
    effects = arrays(np.float32, (len(measured), len(solved)), elements=FLOATS)
    return Baseline(
        model=draw(words),
        architecture={"class": draw(words), "n_layers": layers, "n_heads": heads, "d_head": d_head},
        task=Task(draw(words), tuple(pairs)),
        spec=spec,
        fingerprints={"weights": draw(words), "tokenizer": draw(words)},
        heads=all_heads,
        measured=measured,
        metric=draw(numbers),
        counterfactual=draw(numbers),
        solved=solved,
        ablated={kind: draw(effects) for kind in KINDS},
        z=cache(),
        gradient=cache(),
        ceiling=draw(st.none() | SHARES),
        noise=draw(st.dictionaries(words, st.dictionaries(words, changes, max_size=2), max_size=2)),
        environment=draw(st.dictionaries(words, words, max_size=3)),
        reason=draw(words),
        notes=tuple(draw(st.lists(words, max_size=2))),
    )


def exactly(value: float) -> Estimate:
    """An estimate without width."""
    return Estimate(value, value, value)


def make_head(layer: int = 0, head: int = 0, reference: float = 1.0, candidate: float = 1.0, **changes: Any):
    """One head with its importances; everything else about it is quiet."""
    known = HeadMeasure(
        layer=layer,
        head=head,
        importance_ref=exactly(reference),
        importance_cand=exactly(candidate),
        importance_change=exactly(candidate - reference),
        profile_change=exactly(nan),  # `make_circuit` knows the largest importance
        rank_ref=1,
        rank_cand=1,
        drift=0.01,
        drift_answer=0.01,
        cosine=1.0,
        cosine_answer=1.0,
        fragility=0.0,
        repair_gain=0.0,
    )
    return replace(known, **changes)


def _relative_to_the_largest(heads: tuple[HeadMeasure, ...]) -> tuple[HeadMeasure, ...]:
    """The heads with their changes relative to the largest importance of the reference, as if that were certain."""
    largest = max((abs(head.importance_ref.value) for head in heads if head.rank_ref is not None), default=0)
    return tuple(
        replace(head, profile_change=Estimate(*(end / largest for end in astuple(head.importance_change))))
        if largest
        else head
        for head in heads
    )


def make_circuit(**changes: Any) -> Circuit:
    """A circuit that passes every default limit of an unknown precision, with room."""
    known = Circuit(
        behaviour_kept=Estimate(1.0, 0.95, 1.0),
        metric_change=Estimate(0.01, 0.0, 0.02),
        metric_ref=exactly(4.0),
        metric_cand=exactly(4.0),
        drift_median=Estimate(0.01, 0.005, 0.015),
        drift_largest=Estimate(0.02, 0.01, 0.03),
        profile_distance=Estimate(0.01, 0.0, 0.02),
        ranking=Ranking(Estimate(0.99, 0.98, 1.0), ceiling=0.97, top_k=1.0, kendall=0.9),
        repair=Repair(
            damage=exactly(0.0),
            unrepaired=Estimate(0.01, 0.0, 0.02),
            recovery=None,
            curves={},
            diagnosis="no damage",
        ),
        bound=BoundAudit(
            0.1,
            0.1,
            0.5,
            coverage=1.0,
            looseness=5.0,
            violated=False,
            relative_error=0.0,
            per_prompt=PerPrompt((0.1,), (0.1,), (0.5,)),
        ),
        associations={kind: Association(exactly(0.1), exactly(0.2), p_within=0.3, between_share=0.4) for kind in KINDS},
        heads=(make_head(0, 0, 4.0, 4.0), make_head(0, 1, 1.0, 1.0)),
    )
    circuit = replace(known, **changes)
    return replace(circuit, heads=_relative_to_the_largest(circuit.heads))


def make_measurement(circuit: Circuit | None = None, **changes: Any) -> Measurement:
    """A measurement of that circuit on 64 prompts, 32 of which drift and repair use."""
    known = Measurement(
        model="made-up",
        candidate="candidate",
        precision="unheard-of",
        task="synthetic",
        prompts=64,
        solved=64,
        part=32,
        clusters=8,
        inconclusive=None,
        circuit=circuit or make_circuit(),
        noise_floor={"drift": 1e-7, "metric_change": 1e-7, "profile_distance": 1e-7, "ranking_change": 0.0},
        fingerprints={"weights": "a" * 64, "tokenizer": "b" * 64, "prompts": "c" * 64, "spec": "d" * 64},
    )
    return replace(known, **changes)
