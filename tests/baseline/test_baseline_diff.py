"""What accepting prints is what a reviewer needs to judge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import synthetic

from circuitcheck.baseline.diff import describe_change, describe_new
from circuitcheck.core.activations import Activations
from circuitcheck.core.specification import MeasurementSpec

COMPETENT = MeasurementSpec(minimum_clusters=2)


def baseline_with(importance, **changes):
    return synthetic.with_importance(synthetic.make_baseline(**({"spec": COMPETENT} | changes)), importance)


def unsolved(baseline):
    empty = Activations((), (), tuple(np.empty((0, 2, 3), np.float32) for _ in range(2)))
    nothing = {kind: np.empty((4, 0), np.float32) for kind in synthetic.KINDS}
    return replace(baseline, solved=(), ablated=nothing, z=empty, gradient=empty)


def test_new_baseline_lists_competence_and_heads_by_size():
    assert describe_new(baseline_with([0.5, -2.0, 1.0, 0.25])) == [
        "solves 6 of 6 prompts",
        "most important heads, in logits: 0.1 (-2.00), 1.0 (1.00), 0.0 (0.50), 1.1 (0.25)",
    ]


def test_new_baseline_of_an_unsolved_task_says_that_it_is_inconclusive():
    lines = describe_new(unsolved(baseline_with([1.0, 1.0, 1.0, 1.0])))
    assert len(lines) == 1
    assert lines[0].startswith("solves 0 of 6 prompts (INCONCLUSIVE: the reference solves 0 of 6 prompts")


def test_nothing_changed():
    old = baseline_with([0.5, -2.0, 1.0, 0.25])
    assert describe_change(old, old) == ["no head moved by more than 1% of the largest importance"]


def test_heads_that_moved_are_listed_by_how_far():
    old = baseline_with([0.5, -2.0, 1.0, 0.25])
    new = replace(
        baseline_with([0.75, -2.0, -1.0, 0.265625]), fingerprints={"weights": "f" * 64, "tokenizer": "b" * 64}
    )
    # Head 1.1 moved by 0.016, which is less than 1 % of 2.
    assert describe_change(old, new) == [
        "weights: aaaaaaaaaaaa -> ffffffffffff",
        "head 1.0: importance 1.000 -> -1.000 logits",
        "head 0.0: importance 0.500 -> 0.750 logits",
    ]


def test_only_so_many_heads_are_listed():
    layout = synthetic.head_layout(5, 2, 3)
    many = {"layout": layout, "measured": layout.units}
    old, new = baseline_with([1.0] * 10, **many), baseline_with([2.0] * 9 + [1.0], **many)
    lines = describe_change(old, new)
    assert len(lines) == 9
    assert lines[0] == "head 0.0: importance 1.000 -> 2.000 logits"
    assert lines[-1] == "and 1 more heads moved"


def test_other_prompts_and_another_spec_are_named():
    old = baseline_with([1.0, 1.0, 1.0, 1.0])
    new = baseline_with([1.0, 1.0, 1.0, 1.0], task=synthetic.make_task(4), spec=MeasurementSpec(minimum_clusters=3))
    lines = describe_change(old, new)
    assert lines[:2] == [
        f"prompts: {old.task.fingerprint[:12]} -> {new.task.fingerprint[:12]}",
        f"spec: {old.spec.fingerprint[:12]} -> {new.spec.fingerprint[:12]}",
    ]
    assert lines[2:] == [
        "solves 6 of 6 prompts -> solves 4 of 4 prompts",
        "no head moved by more than 1% of the largest importance",
    ]


def test_heads_of_another_shape_or_of_an_unsolved_task_are_not_compared():
    old = baseline_with([1.0, 1.0, 1.0, 1.0])
    layout = synthetic.head_layout(1, 6, 3)
    wider = baseline_with([1.0] * 6, layout=layout, measured=layout.units)
    assert describe_change(old, wider) == ["heads: not comparable"]
    lines = describe_change(old, unsolved(old))
    assert lines[0].startswith("solves 6 of 6 prompts -> solves 0 of 6 prompts (INCONCLUSIVE")
    assert lines[1:] == ["heads: not comparable"]
    assert describe_change(unsolved(old), old)[1:] == ["heads: not comparable"]
