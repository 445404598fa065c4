"""The verdict as `model-index` entries, which the hub shows beside a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.report.fields import Entry
from circuitcheck.report.words import label

DATASET = "circuitcheck/"
"""How the entries' data sets are called, by which they are found again."""


def merge_results(index: Any, name: str, document: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """A model-index in which this report's results stand in place of older ones of its kind.

    Args:
        index: the card's present `model-index`, or None.
        name: of the release, if the index has no model yet.
        document: the report of this release alone.
        where: what messages call the card.

    Raises:
        ConfigurationError: the present index has another form.
    """
    models = index if index is not None else []
    if not isinstance(models, list) or not all(_is_model(model) for model in models):
        raise ConfigurationError(
            f"model-index in {where} must be a list of models, each with a name and results. Mend or remove it."
        )
    ours = eval_results_to_model_index(name, [result for run in document["runs"] for result in _results(run)])
    if not models:
        return ours
    first, *others = models
    kept = [result for result in first["results"] if not _is_ours(result)]
    return [dict(first) | {"results": [*kept, *ours[0]["results"]]}, *others]


def _results(run: Entry) -> list[EvalResult]:
    """The verdict and every measured criterion of one task."""
    found = [("verdict", "circuit gate", run["verdict"])]
    found += [
        (criterion["name"], label(criterion["name"]), criterion["value"]["value"])
        for criterion in run["criteria"]
        if criterion["value"]["value"] is not None
    ]
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=f"{DATASET}{run['task']}",
            dataset_name=f"circuitcheck {run['task']}",
            dataset_config=run["candidate"],
            metric_type=f"circuitcheck_{metric}",
            metric_name=title,
            metric_value=value,
        )
        for metric, title, value in found
    ]


def _is_ours(result: Any) -> bool:
    dataset = result.get("dataset") if isinstance(result, dict) else None
    return isinstance(dataset, dict) and str(dataset.get("type", "")).startswith(DATASET)


def _is_model(model: Any) -> bool:
    return isinstance(model, dict) and isinstance(model.get("results"), list)
