"""A baseline of something else is refused, and every difference is named with its old and its new value."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import synthetic
from hypothesis import given, settings

from circuitcheck.baseline.freshness import environment_notes, require_fresh
from circuitcheck.core.errors import StaleBaselineError
from circuitcheck.core.specification import MeasurementSpec

BASELINE = synthetic.make_baseline()
NOW = {"task": BASELINE.task, "spec": BASELINE.spec, "tokenizer": "b" * 64, "weights": "a" * 64}


def message_of(**changes) -> str:
    with pytest.raises(StaleBaselineError) as caught:
        require_fresh(BASELINE, **(NOW | changes))
    return str(caught.value)


def test_the_same_is_fresh():
    require_fresh(BASELINE, **NOW)


@pytest.mark.parametrize(("name", "old"), [("weights", "a" * 12), ("tokenizer", "b" * 12)])
def test_other_weights_and_tokenizer_are_named(name, old):
    message = message_of(**{name: "c" * 64})
    assert message.splitlines() == [
        "the golden baseline of made-up on 'synthetic' is stale, so nothing was compared:",
        f"  {name}: recorded {old}, now cccccccccccc",
    ]


@pytest.mark.parametrize("key", ["clean", "counterfactual", "answer", "foil", "cluster"])
def test_any_other_prompt_is_named(key):
    pair = BASELINE.task.pairs[3]
    changed = {"answer": 7, "foil": 7, "cluster": "other"}.get(key, (9, 9, 9))
    pairs = (*BASELINE.task.pairs[:3], replace(pair, **{key: changed}), *BASELINE.task.pairs[4:])
    other = replace(BASELINE.task, pairs=pairs)
    message = message_of(task=other)
    assert f"prompts: recorded {BASELINE.task.fingerprint[:12]}, now {other.fingerprint[:12]}" in message
    assert len(message.splitlines()) == 2


@pytest.mark.parametrize("pairs", [BASELINE.task.pairs[:-1], BASELINE.task.pairs[::-1]])
def test_fewer_prompts_or_another_order_are_other_prompts(pairs):
    assert "prompts: recorded" in message_of(task=replace(BASELINE.task, pairs=pairs))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("unit", "block"),
        ("ablation", "zero"),
        ("positions", "answer"),
        ("part", 31),
        ("margin", 0.25),
        ("minimum_solved", 0.75),
        ("minimum_clusters", 4),
        ("draws", 500),
        ("persistence", 0.5),
        ("sweep", "screened"),
        ("attention", "sdpa"),
        ("seed", 1),
    ],
)
def test_every_choice_of_the_spec_is_named(key, value):
    old = getattr(BASELINE.spec, key)
    message = message_of(spec=replace(BASELINE.spec, **{key: value}))
    assert message.endswith(f"\n  measurement spec, {key}: recorded {old}, now {value}")
    assert len(message.splitlines()) == 2


def test_all_differences_are_named_at_once():
    spec = replace(BASELINE.spec, part=8, seed=3)
    other = replace(BASELINE.task, pairs=BASELINE.task.pairs[:4])
    lines = message_of(task=other, spec=spec, tokenizer="d" * 64, weights="e" * 64).splitlines()
    names = [re.split(r": recorded", line)[0].strip() for line in lines[1:]]
    assert names == ["prompts", "tokenizer", "weights", "measurement spec, part", "measurement spec, seed"]


def test_weights_of_a_saved_release_are_not_compared():
    require_fresh(BASELINE, **(NOW | {"weights": None}))
    assert "tokenizer" in message_of(weights=None, tokenizer="c" * 64)


@settings(deadline=None, max_examples=50)
@given(one=synthetic.specs(), other=synthetic.specs())
def test_specs_are_fresh_exactly_if_they_are_equal(one, other):
    baseline = replace(BASELINE, spec=one)
    require_fresh(baseline, **(NOW | {"spec": replace(one)}))
    if one != other:
        with pytest.raises(StaleBaselineError):
            require_fresh(baseline, **(NOW | {"spec": other}))
    assert (one.fingerprint == other.fingerprint) == (one == other)


def test_default_spec_has_the_fingerprint_of_its_choices_alone():
    assert MeasurementSpec().fingerprint == MeasurementSpec(ablation="resample").fingerprint


def test_another_machine_is_a_note_that_names_both():
    now = {"device": "cpu", "instruction_set": "AVX512", "libraries": {"torch": "1", "numpy": "3"}}
    notes = environment_notes(BASELINE, now)
    assert len(notes) == 2
    assert "noise floor was seen on AVX2, this machine runs AVX512: roundings may differ" in notes[0]
    assert "--circuit-against-base" in notes[0]
    assert "--circuit-calibrate" in notes[0]
    assert notes[1] == "The baseline was recorded with other versions: numpy 2 -> 3."


def test_the_same_machine_needs_no_note():
    assert environment_notes(BASELINE, dict(BASELINE.environment)) == []


def test_a_library_that_is_not_known_here_is_named():
    baseline = synthetic.make_baseline()
    now = {"device": "cpu", "instruction_set": "AVX2", "libraries": {"torch": "1"}}
    assert environment_notes(baseline, now) == ["The baseline was recorded with other versions: numpy 2 -> none."]
