"""Reports of any size made of seeded numbers: no model runs. They have every key of the schema that renderings read."""

from __future__ import annotations

from typing import Any

import numpy as np

ORDERS = ("importance", "drift", "importance x drift", "fragility", "reversed")
CRITERIA = (
    ("behaviour_kept", 0.98, 0.9, ">=", "share of the reference's solved prompts"),
    ("metric_change", 0.02, 0.2, "<=", "relative"),
    ("drift_median", 0.02, 0.08, "<=", "relative"),
    ("drift_largest", 0.08, 0.3, "<=", "relative"),
    ("ranking_agreement", 0.95, 0.8, ">=", "rank-biased overlap"),
    ("profile_distance", 0.05, 0.25, "<=", "relative to the largest importance"),
    ("unrepaired", 0.01, 0.1, "<=", "relative to the reference's metric"),
)

BASIS: dict[str, Any] = {
    "source": "unembedding",
    "tokens": 64,
    "changed": [],
    "largest_drift_z": 0.0,
    "largest_drift": 0.0,
    "renumbered": {},
    "unread": 0.001,
}


def made_up_report(
    layers: int = 2,
    heads: int = 2,
    candidates: tuple[str, ...] = ("int8",),
    tasks: tuple[str, ...] = ("ioi",),
    seed: int = 0,
    verdicts: dict[tuple[str, str], str] | None = None,
) -> dict[str, Any]:
    """A report in which every candidate passes every task, but for those of `verdicts`.

    Args:
        layers: of the model.
        heads: of each layer.
        candidates: names.
        tasks: names.
        seed: of all numbers; the reference's are the same for every candidate.
        verdicts: (candidate, task) to FAIL, INCONCLUSIVE or, for what could not be measured, UNMEASURED.
    """
    words = verdicts or {}
    runs = [
        _run(candidate, task, layers, heads, seed + 31 * place, words.get((candidate, task), "PASS"))
        for candidate in candidates
        for place, task in enumerate(tasks)
    ]
    return {
        "schema": 3,
        "command": "pytest --circuit-report",
        "environment": {
            "device": "cpu",
            "circuitcheck": "0.1.0",
            "instruction_set": "AVX2",
            "libraries": {"torch": "2.13.0", "transformers": "5.23.0", "numpy": "2.4.6"},
            "python": "3.11.9",
        },
        "complete": True,
        "interrupted": False,
        "failed": False,
        "expected_runs": len(runs),
        "runs": runs,
        "compare": None,
    }


def unmeasured_run(candidate: str, task: str, message: str) -> dict[str, Any]:
    """An entry of a candidate that was refused."""
    nothing = dict.fromkeys(
        (
            *(
                "precision",
                "metric",
                "prompts",
                "solved",
                "part",
                "clusters",
                "repair",
                "bound",
                "ranking",
                "associations",
                "basis",
            ),
            *("metric_ref", "metric_cand", "census", "batch_size", "noise", "multiverse", "keep"),
        )
    )
    return nothing | {
        "model": "made-up",
        "candidate": candidate,
        "task": task,
        "unit": "head",
        "verdict": "FAIL",
        "message": message,
        "criteria": [],
        "broken": [],
        "units": [],
        "noise_floor": {},
        "notes": [],
        "fingerprints": {},
        "environment": {},
    }


def _run(candidate: str, task: str, layers: int, heads: int, seed: int, word: str) -> dict[str, Any]:
    if word == "UNMEASURED":
        return unmeasured_run(candidate, task, f"{candidate} has another shape than the baseline.")
    rng = np.random.default_rng(seed)
    drift_rng = np.random.default_rng([seed, *candidate.encode()])
    rows, broken = _units(rng, drift_rng, layers, heads, breaks=word == "FAIL")
    change = rows[0]["importance_change"]["value"] if word == "FAIL" else -0.02
    return {
        "model": "made-up",
        "candidate": candidate,
        "precision": "8-bit",
        "task": task,
        "unit": "head",
        "metric": "logit_difference",
        "verdict": word,
        "message": "",
        "prompts": 64,
        "solved": 62,
        "part": 32,
        "clusters": 8,
        "metric_ref": _estimate(6.0 + rng.normal(), 0.4),
        "metric_cand": _estimate(6.0 + rng.normal() + change, 0.4),
        "criteria": [_criterion(word, *row) for row in CRITERIA],
        "broken": broken,
        "units": rows,
        "repair": _repair(drift_rng, layers * heads, word == "FAIL"),
        "bound": {
            "degradation": 0.2,
            "estimate": 0.18,
            "bound": 1.5,
            "coverage": 1.0,
            "looseness": 7.5,
            "violated": False,
            "relative_error": 0.1,
            "per_prompt": {"degradation": [0.2], "estimate": [0.18], "bound": [1.5]},
            "integrated": None,
        },
        "ranking": {"agreement": _estimate(0.95, 0.02), "ceiling": 0.93, "top_5": 0.8, "kendall_tau_b": 0.7},
        "associations": {
            kind: {
                "raw": _estimate(-0.2, 0.1),
                "within_layers": _estimate(0.05, 0.1),
                "p_within_layers": 0.4,
                "between_layers_share": 0.6,
            }
            for kind in ("resample", "mean", "zero")
        },
        "basis": dict(BASIS),
        "noise_floor": {"drift": 1e-7, "metric_change": 1e-7, "profile_distance": 1e-7, "ranking_change": 0.0},
        "noise": None,
        "census": None,
        "batch_size": None,
        "multiverse": None,
        "keep": None,
        "fingerprints": {"weights": "a" * 64, "tokenizer": "b" * 64, "prompts": task * 4, "spec": "d" * 64},
        "environment": {"device": "cpu"},
        "notes": [],
    }


def _units(
    rng: np.random.Generator, drift_rng: np.random.Generator, layers: int, heads: int, *, breaks: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Heads, and which of them broke. Importances have a heavy tail, as real ones do; drift grows with depth."""
    count = layers * heads
    importance = rng.standard_t(1.2, count).clip(-20, 20) * 0.3
    other = {kind: importance * rng.normal(1, 0.3, count) + rng.normal(0, 0.1, count) for kind in ("mean", "zero")}
    change = drift_rng.normal(0, 0.02, count)
    places = np.repeat(np.arange(layers), heads)
    drift = 0.01 * (1 + places) * drift_rng.lognormal(0, 0.6, count)
    broken = set(np.argsort(-abs(importance))[:2].tolist()) if breaks else set()
    for place in broken:
        change[place] = -0.9 * importance[place]
    ranks = np.empty(count, int)
    ranks[np.argsort(-abs(importance))] = np.arange(1, count + 1)
    units = [
        {
            "unit": f"{places[place]}.{place % heads}",
            "layer": int(places[place]),
            "column": place % heads,
            "importance_ref": _estimate(importance[place], 0.15),
            "importance_cand": _estimate(importance[place] + change[place], 0.15),
            "importance_change": _estimate(change[place], 0.01),
            "rank_ref": int(ranks[place]),
            "rank_cand": int(ranks[place]),
            "drift": float(drift[place]),
            "drift_z": float(drift[place]),
            "drift_answer": float(drift[place]),
            "cosine": 1.0,
            "cosine_answer": 1.0,
            "fragility": float(abs(importance[place]) * drift[place]),
            "repair_gain": float(0.1 * importance[place]),
            "importance_ref_by_kind": {"resample": _estimate(importance[place], 0.15)}
            | {kind: _estimate(values[place], 0.2) for kind, values in other.items()},
        }
        for place in range(count)
    ]
    return units, [units[place]["unit"] for place in sorted(broken)]


def _repair(rng: np.random.Generator, count: int, is_damaged: bool) -> dict[str, Any]:
    grid = sorted({min(count, round(1.6**step)) for step in range(20)})

    def points(speed: float) -> list[dict[str, Any]]:
        values = [1 - np.exp(-speed * k / count) for k in grid]
        return [
            {
                "k": k,
                "recovery": _estimate(value, 0.1) if is_damaged else {"value": None, "interval": [None, None]},
            }
            for k, value in zip(grid, values, strict=True)
        ]

    return {
        "diagnosis": "localized" if is_damaged else "no damage",
        "damage": _estimate(1.0 if is_damaged else 0.0, 0.1),
        "recovery": _estimate(0.97, 0.02) if is_damaged else None,
        "unrepaired": _estimate(0.01, 0.005),
        "curves": {order: points(speed) for order, speed in zip(ORDERS, rng.uniform(1, 9, len(ORDERS)), strict=True)},
        "random": points(2.5),
        "areas": {order: {"value": 0.6, "over_random": _estimate(0.2, 0.1)} for order in ORDERS},
    }


def _criterion(word: str, name: str, value: float, limit: float, relation: str, unit: str) -> dict[str, Any]:
    verdict, shown, width = "PASS", value, 0.05 * value
    if name == "profile_distance" and word != "PASS":
        verdict, shown, width = word, 0.9 if word == "FAIL" else 0.25, 0.1
    return {
        "name": name,
        "value": _estimate(shown, width),
        "relation": relation,
        "limit": limit,
        "unit": unit,
        "verdict": verdict,
        "message": "" if verdict == "PASS" else f"{name} is {shown}, but must be {relation} {limit} ({unit}).",
    }


def _estimate(value: float, width: float) -> dict[str, Any]:
    return {"value": float(value), "interval": _interval(value, width)}


def _interval(value: float, width: float) -> list[float]:
    return [float(value - width), float(value + width)]
