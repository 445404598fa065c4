"""Reports of any size, made of random numbers, in the form of report.json."""

from __future__ import annotations

from typing import Any

import numpy as np

SCHEMA = 3
ORDERS = ("importance", "drift", "importance x drift", "fragility", "reversed")
ABLATIONS = ("resample", "mean", "zero")
UNITS = {
    "behaviour_kept": (">=", 0.9, "share of prompts"),
    "metric_change": ("<=", 0.2, "of the reference's logit difference"),
    "drift_median": ("<=", 0.2, "relative norm"),
    "drift_largest": ("<=", 0.8, "relative norm"),
    "ranking_agreement": (">=", 0.8, "rank-biased overlap"),
    "profile_distance": ("<=", 0.25, "of the largest importance"),
    "unrepaired": ("<=", 0.1, "of the reference's logit difference"),
    "recovery": (">=", 0.5, "share of the damage"),
}

BASIS: dict[str, Any] = {
    "source": "unembedding",
    "tokens": 64,
    "changed": [],
    "largest_drift_z": 0.0,
    "largest_drift": 0.0,
    "renumbered": {},
    "unread": 0.001,
}


def make_document(
    layers: int = 4,
    heads: int = 4,
    candidates: tuple[str, ...] = ("f16", "int4-rtn"),
    tasks: tuple[str, ...] = ("ioi", "facts"),
    prompts: int = 32,
    seed: int = 0,
) -> dict[str, Any]:
    """A whole report. Candidates pass and fail in turn; the last run of a failing one is inconclusive."""
    rng = np.random.default_rng(seed)
    runs = []
    for number, candidate in enumerate(candidates):
        for place, task in enumerate(tasks):
            verdict = "PASS" if number % 2 == 0 else "INCONCLUSIVE" if place == len(tasks) - 1 else "FAIL"
            runs.append(make_run(rng, candidate, task, verdict, layers, heads, prompts))
    libraries = {"torch": "2.13.0", "transformers": "5.23.0", "numpy": "2.4.6"}
    return {
        "schema": SCHEMA,
        "command": "pytest --circuit-report --circuit-model made-up",
        "environment": {
            "circuitcheck": "0.1.0",
            "device": "cpu",
            "instruction_set": "AVX2",
            "python": "3.11.7",
            "libraries": libraries,
        },
        "complete": True,
        "interrupted": False,
        "failed": False,
        "expected_runs": len(runs),
        "runs": runs,
    }


def make_run(
    rng: np.random.Generator, candidate: str, task: str, verdict: str, layers: int, heads: int, prompts: int
) -> dict[str, Any]:
    """One candidate on one task; in one that fails the most important head has lost its importance."""
    size = layers * heads
    importance = rng.standard_cauchy(size).clip(-3, 6) * 0.2
    importance[rng.integers(size)] = 4.0
    change = rng.normal(0, 0.02, size)
    if verdict == "FAIL":
        change[importance.argmax()] = -3.5
    drift = np.abs(rng.normal(0.05, 0.03, size)) + 0.02 * np.repeat(np.arange(layers), heads) / layers
    rows = [make_unit(rng, place, heads, importance, change, drift) for place in range(size)]
    damaged = verdict != "PASS"
    bound = np.abs(rng.normal(1, 0.3, prompts)) + 0.2
    return {
        "model": "made-up",
        "candidate": candidate,
        "precision": "4-bit" if damaged else "f16",
        "task": task,
        "unit": "head",
        "metric": "logit_difference",
        "verdict": verdict,
        "message": "",
        "prompts": 2 * prompts,
        "solved": 2 * prompts - 1,
        "part": prompts,
        "clusters": 16,
        "metric_ref": estimate(5.1),
        "metric_cand": estimate(3.2 if damaged else 5.0),
        "criteria": make_criteria(verdict),
        "broken": [row["unit"] for row in rows if abs(row["importance_change"]["value"]) > 1],
        "units": rows,
        "repair": make_repair(rng, size, damaged),
        "ranking": {"agreement": estimate(0.8), "ceiling": 0.93, "top_5": 0.8, "kendall_tau_b": 0.7},
        "bound": {
            "degradation": 0.4,
            "estimate": 0.3,
            "bound": 1.2,
            "coverage": 0.97,
            "looseness": 3.1,
            "violated": damaged,
            "relative_error": 0.25,
            "per_prompt": {
                "degradation": rounded(bound * rng.uniform(-0.5, 1.1, prompts)),
                "estimate": rounded(bound * rng.uniform(-0.4, 0.6, prompts)),
                "bound": rounded(bound),
            },
            "integrated": {"estimate": 0.39, "relative_error": 0.03},
        },
        "associations": {
            kind: {
                "raw": estimate(-0.38),
                "within_layers": estimate(0.01),
                "p_within_layers": 0.97,
                "between_layers_share": 0.98,
            }
            for kind in ABLATIONS
        },
        "basis": dict(BASIS),
        "census": make_census(damaged),
        "batch_size": 1 if damaged else None,
        "noise_floor": {"drift": 4e-7, "metric_change": 9e-7, "profile_distance": 4e-7, "ranking_change": 0.0},
        "noise": {"instruction_set": "AVX2", "sources": {"threads=1": {"drift": 2e-7, "metric_change": 1e-7}}},
        "multiverse": {
            "flips": 1,
            "of": 2,
            "specifications": [
                _specification("resample", "logit_difference", "all", verdict),
                _specification("zero", "log_probability", "answer", "INCONCLUSIVE"),
            ],
        },
        "keep": {
            "modules": ["layers.1.attn.out"],
            "verdict": "PASS",
            "measured": 9,
            "torchao": '{"layers.1.attn.out": None}',
            "compressed_tensors": 'ignore=["layers.1.attn.out"]',
            "bitsandbytes": 'llm_int8_skip_modules=["layers.1.attn.out"]',
            "message": "",
        }
        if verdict == "FAIL"
        else None,
        "fingerprints": {name: name[0] * 64 for name in ("weights", "tokenizer", "prompts", "spec")},
        "environment": {"device": "cpu"},
        "notes": ["Drift, gradients and repair use a part of the solved prompts."],
    }


def _specification(ablation: str, metric: str, ablate_at: str, verdict: str) -> dict[str, str]:
    return {"ablation": ablation, "metric": metric, "ablate_at": ablate_at, "verdict": verdict, "message": ""}


def make_unit(
    rng: np.random.Generator, place: int, heads: int, importance: np.ndarray, change: np.ndarray, drift: np.ndarray
) -> dict[str, Any]:
    """One head."""
    reference, moved = float(importance[place]), float(change[place])
    layer, column = divmod(place, heads)
    head: dict[str, Any] = {"unit": f"{layer}.{column}", "layer": layer, "column": column}
    for name, value in (("ref", reference), ("cand", reference + moved), ("change", moved)):
        head[f"importance_{name}"] = {"value": rounded(value), "interval": rounded([value - 0.0713, value + 0.0829])}
    rank = int((np.abs(importance) > abs(reference)).sum()) + 1
    head |= {"rank_ref": rank, "rank_cand": rank}
    for name in ("drift", "drift_z", "drift_answer"):
        head[name] = rounded(float(drift[place]))
    head |= {"cosine": 0.998765, "cosine_answer": 0.997654}
    head["fragility"] = rounded(abs(float(rng.normal(0, 0.05))))
    head["repair_gain"] = rounded(float(rng.normal(0, 0.05)))
    return head


def make_criteria(verdict: str) -> list[dict[str, Any]]:
    """All criteria; the profile distance has the verdict, the others pass."""
    rows = []
    for name, (relation, limit, unit) in UNITS.items():
        word = verdict if name == "profile_distance" else "PASS"
        value = limit * (0.5 if relation == "<=" else 1.05)
        spread = 0.02 * limit
        if word != "PASS":
            value, spread = (0.87, 0.1) if word == "FAIL" else (0.23, 0.1)
        rows.append(
            {
                "name": name,
                "value": {"value": rounded(value), "interval": rounded([value - spread, value + spread])},
                "limit": limit,
                "relation": relation,
                "unit": unit,
                "verdict": word,
                "message": "" if word == "PASS" else f"{name} is {value:.4g}",
            }
        )
    return rows


def make_repair(rng: np.random.Generator, size: int, damaged: bool) -> dict[str, Any]:
    """Repair of a damaged candidate, with curves that rise at different speeds; without curves where nothing is."""
    grid = sorted({k for k in (1, 2, 3, 5, 10, 20, 50, 100, 200, 500) if k < size} | {size})

    def curve(power: float) -> list[dict[str, Any]]:
        values = [(k / size) ** power * 0.96 for k in grid]
        return [
            {"k": k, "recovery": {"value": rounded(value), "interval": rounded([value - 0.09, value + 0.05])}}
            for k, value in zip(grid, values, strict=True)
        ]

    return {
        "diagnosis": "localized" if damaged else "no damage",
        "damage": estimate(1.9 if damaged else 0.001),
        "recovery": estimate(0.96) if damaged else None,
        "unrepaired": estimate(0.02),
        "curves": {order: curve(0.2 + 0.15 * place) for place, order in enumerate(ORDERS)} if damaged else {},
        "random": curve(1.0) if damaged else [],
        "areas": {
            order: {"value": 0.8, "over_random": {"value": 0.3, "interval": [0.2, 0.4]}} for order in ORDERS if damaged
        },
    }


def make_census(quantized: bool) -> dict[str, Any]:
    """24 projections, quantized or not."""
    dense = {"module": "Linear", "weight": "Parameter float16", "bits": 16.0, "modules": 24, "parameters": 1179648}
    packed = {**dense, "weight": "Int4Tensor", "bits": 4.0}
    kinds = [packed if quantized else dense]
    return {
        "claim": "torchao" if quantized else None,
        "bits": 4.0 if quantized else 16.0,
        "projections": 24,
        "quantized": 24 if quantized else 0,
        "before": kinds,
        "after": kinds,
    }


def estimate(value: float) -> dict[str, Any]:
    """A value with a narrow interval."""
    return {"value": value, "interval": rounded([value - 0.1, value + 0.1])}


def rounded(value: Any) -> Any:
    """Six significant digits, as in report.json."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return [float(f"{float(one):.6g}") for one in value]


def placed_run(run: dict[str, Any], layers: int) -> dict[str, Any]:
    """The run with its damage placed: it comes from the last layer's MLP."""
    modules = [
        {
            "unit": f"{side} {layer}",
            "layer": layer,
            "column": column,
            "recovery": estimate(0.1),
            "left": 0.04 if (layer, side) == (layers - 1, "mlp") else 0.9,
            "drift": 0.2,
        }
        for layer in range(layers)
        for column, side in enumerate(("attention", "mlp"))
    ]
    placing = {"prompts": 16, "modules": modules, "culprits": [f"mlp {layers - 1}"], "left": 0.04}
    return {**run, "placing": placing}


def many_run(run: dict[str, Any], layers: int, count: int) -> dict[str, Any]:
    """The run as one of neurons, of which there are so many in each layer and its units are those measured."""
    units = [{**row, "unit": f"neuron {row['layer']}.{7 * row['column']}"} for row in run["units"]]
    names = dict(zip((row["unit"] for row in run["units"]), (row["unit"] for row in units), strict=True))
    population = {
        "units": layers * count,
        "top": len(units),
        "sample": 48,
        "important": 0.05,
        "missed": 0.0,
        "missed_interval": [0.0, 148.0],
        "drift": {"edges": [0.0, 0.01, 0.1, 1.0, None], "counts": [0, layers * count - 3, 3, 0]},
        "correlation": {"edges": [-1.0, 0.0, 0.9, 1.0], "counts": [1, 2, layers * count - 5]},
        "constant": 2,
        "layers": [{"layer": layer, "units": count, "drift": 0.1, "correlation": 0.99} for layer in range(layers)],
        "movers": [
            {"unit": f"neuron 1.{n}", "layer": 1, "score": 0.01, "drift": 0.4, "move": 0.2, "correlation": None}
            for n in range(24)
        ],
    }
    return {
        **run,
        "unit": "neuron",
        "units": units,
        "broken": [names[name] for name in run["broken"]],
        "population": population,
    }
