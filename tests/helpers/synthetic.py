"""Baselines made of given numbers: no model runs. Measurements are in `synthetic_results`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from synthetic_results import KINDS, exactly, make_circuit, make_head, make_measurement

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.baseline.noise_floor import MEASURES
from circuitcheck.baseline.rounded import MEASURES as ROUNDED
from circuitcheck.baseline.rounded import Rounded
from circuitcheck.core.activations import Activations
from circuitcheck.core.next_token import NextToken
from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.core.reading import Reading
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.core.units import Group, Layout

__all__ = ["exactly", "make_circuit", "make_head", "make_measurement"]

LAYERS, HEADS, D_HEAD = 2, 2, 3
UNIT_KINDS = ("head", "block")


def make_task(prompts: int = 6, name: str = "synthetic", clusters: int = 6) -> Task:
    """Prompts of 2 and 3 tokens in turn."""
    pairs = []
    for number in range(prompts):
        clean = (number % 7, number, 5)[: 2 + number % 2]
        pairs.append(PromptPair(clean, (9, *clean[1:]), answer=1, foil=2, cluster=f"c{number % clusters}"))
    return Task(name, tuple(pairs))


def head_layout(layers: int, heads: int, d_head: int) -> Layout:
    """Heads, as many in every layer."""
    return Layout("head", tuple(Group(str(layer), layer, heads, d_head) for layer in range(layers)))


def make_baseline(seed: int = 0, **changes: Any) -> Baseline:
    """Six prompts, all solved, two layers of two heads."""
    rng = np.random.default_rng(seed)
    task = changes.pop("task", make_task())
    solved = tuple(range(len(task.pairs)))
    lengths = tuple(len(pair.clean) for pair in task.pairs)

    def values() -> Activations:
        shape = (sum(lengths), HEADS, D_HEAD)
        return Activations(solved, lengths, tuple(rng.normal(size=shape).astype(np.float32) for _ in range(LAYERS)))

    layout = changes.pop("layout", head_layout(LAYERS, HEADS, D_HEAD))
    metric = rng.uniform(3, 5, len(task.pairs)).astype(np.float32)
    known = Baseline(
        model="made-up",
        architecture={"class": "MadeUp", "n_layers": LAYERS, "n_heads": HEADS, "d_head": D_HEAD},
        task=task,
        spec=MeasurementSpec(),
        fingerprints={"weights": "a" * 64, "tokenizer": "b" * 64},
        layout=layout,
        measured=layout.units,
        metric=metric,
        counterfactual=-metric,
        solved=solved,
        ablated={kind: rng.normal(size=(LAYERS * HEADS, len(solved))).astype(np.float32) for kind in KINDS},
        z=values(),
        gradient=values(),
        reading=Reading("unembedding", (1, 2, 5), tuple(_map(group) for group in layout.groups)),
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


def _map(group: Group) -> np.ndarray:
    """What each unit of a group writes of three tokens, `[count, 3, width]`."""
    return np.arange(group.count * 3 * group.width, dtype=np.float32).reshape(group.count, 3, group.width)


def with_importance(baseline: Baseline, importance: list[float]) -> Baseline:
    """The same with every unit's ablation costing exactly this much on every prompt."""
    clean = baseline.metric[list(baseline.solved)]
    ablated = (clean[None] - np.array(importance, np.float32)[:, None]).astype(np.float32)
    return replace(baseline, ablated=dict.fromkeys(KINDS, ablated))


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
SHARES = st.floats(0, 1, exclude_min=True, exclude_max=True)


@st.composite
def specs(draw, unit: str | None = None) -> MeasurementSpec:
    """Any specification, floats of all digits included."""
    return MeasurementSpec(
        unit=unit or draw(st.sampled_from(UNIT_KINDS)),
        ablation=draw(st.sampled_from(KINDS)),
        positions=draw(st.sampled_from(["all", "answer"])),
        part=draw(st.integers(1, 100)),
        margin=draw(st.floats(0, 1e6)),
        minimum_solved=draw(SHARES),
        minimum_clusters=draw(st.integers(1, 9)),
        draws=draw(st.integers(100, 200)),
        persistence=draw(SHARES),
        sweep=draw(st.sampled_from(["exact", "screened"])),
        seed=draw(st.integers(0, 2**63 - 1)),
    )


@st.composite
def layouts(draw) -> Layout:
    """Any units: several groups of a layer, groups of other sizes, with and without numbers."""
    sizes = st.integers(1, 2)
    groups = st.builds(Group, st.text(max_size=8), st.integers(0, 3), sizes, sizes, st.booleans())
    distinct = st.lists(groups, min_size=1, max_size=3, unique_by=lambda group: group.name)
    return Layout(draw(st.sampled_from(UNIT_KINDS)), tuple(draw(distinct)))


@st.composite
def next_tokens(draw, solved: int) -> NextToken | None:
    """What comes next after so many prompts, or nothing."""
    tokens = arrays(np.int32, (solved, 2), elements=st.integers(0, 2**31 - 1))
    log_probabilities = arrays(np.float32, (solved, 2), elements=st.floats(-100, 0, width=32))
    likeliest = arrays(np.int32, solved, elements=st.integers(0, 2**31 - 1))
    return draw(st.none() | st.builds(NextToken, tokens, log_probabilities, likeliest))


@st.composite
def baselines(draw) -> Baseline:
    """Any baseline: words in any script, any finite numbers, any number of solved prompts, none included."""
    words = st.text(max_size=8)
    changes = st.dictionaries(st.sampled_from(MEASURES), st.floats(0, 1e6), max_size=3)
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
    layout = draw(layouts())
    spec = draw(specs(layout.kind))
    numbers = arrays(np.float32, len(pairs), elements=FLOATS)
    metric = draw(numbers)
    solved = tuple(np.flatnonzero(metric > spec.margin).tolist())
    part = solved[: spec.part]
    kept = tuple(lengths[place] if spec.positions == "all" else 1 for place in part)

    def values() -> Activations:
        shapes = [(sum(kept), group.count, group.width) for group in layout.groups]
        return Activations(part, kept, tuple(draw(arrays(np.float32, shape, elements=FLOATS)) for shape in shapes))

    read = tuple(sorted(draw(st.sets(tokens, min_size=1, max_size=2))))
    maps = tuple(
        draw(arrays(np.float32, (group.count, len(read), group.width), elements=FLOATS)) for group in layout.groups
    )
    some = st.sets(st.sampled_from(layout.units), min_size=1)
    measured = tuple(sorted(draw(some))) if spec.sweep == "screened" and solved else layout.units
    effects = arrays(np.float32, (len(measured), len(solved)), elements=FLOATS)
    ways = draw(st.lists(st.tuples(words, words), max_size=2, unique=True)) if solved else []
    squares = arrays(np.float32, (len(layout.units), len(part)), elements=st.floats(0, 1e6, width=32))
    rounded = st.dictionaries(st.sampled_from(ROUNDED), st.floats(0, 1e6, width=32), max_size=3)
    return Baseline(
        model=draw(words),
        architecture={"class": draw(words), "n_layers": draw(st.integers(1, 9))},
        task=Task(draw(words), tuple(pairs)),
        spec=spec,
        fingerprints={"weights": draw(words), "tokenizer": draw(words)},
        layout=layout,
        measured=measured,
        metric=metric,
        counterfactual=draw(numbers),
        solved=solved,
        ablated={kind: draw(effects) for kind in KINDS},
        z=values(),
        gradient=values(),
        reading=Reading(draw(st.sampled_from(["unembedding", "embedding", "sketch"])), read, maps),
        ceiling=draw(SHARES) if len(solved) > 1 else None,
        next_token=draw(next_tokens(len(solved))) if solved else None,
        roundings=tuple(Rounded(*way, draw(rounded), draw(squares)) for way in ways),
        noise=draw(st.dictionaries(words, st.dictionaries(words, changes, max_size=2), max_size=2)),
        environment={
            **{name: draw(words) for name in ("device", "instruction_set", "python")},
            "libraries": draw(st.dictionaries(words, words, max_size=3)),
        },
        reason=draw(words),
        notes=tuple(draw(st.lists(words, max_size=2))),
    )
