"""The verdict as `model-index` entries, which the hub shows beside a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.modelcard.front_matter import read_head
from circuitcheck.report.fields import Entry
from circuitcheck.report.words import label

RELATION = "quantized"
DATASET = "circuitcheck/"
"""How the entries' data sets are called, by which they are found again."""


def card_values(document: Mapping[str, Any], name: str, base: str | None) -> dict[str, Any]:
    """Our keys of the head, with quotes around words, such as `no`, that the hub reads as something else.

    Args:
        document: the report of this release alone.
        name: of the release.
        base: the reference's id, if the card must be given one.
    """
    results = [result for run in document["runs"] for result in _results(run)]
    data = ModelCardData(base_model=base, base_model_relation=RELATION, model_name=name, eval_results=results)
    return read_head(data.to_yaml())


def merge_results(index: Any, ours: Any) -> Any:
    """A model-index in which a report's results stand in place of older ones of its kind.

    Args:
        index: the card's present `model-index`, which is changed in place, or None.
        ours: that of the report.

    Raises:
        ConfigurationError: the present index has another form.
    """
    if index is None or index == []:
        return ours
    if not isinstance(index, list) or not all(_is_model(model) for model in index):
        raise ConfigurationError(
            "its model-index must be a list of models, each with a name and results. Mend or remove it."
        )
    kept = index[0]["results"]
    for place in reversed(range(len(kept))):
        if _is_ours(kept[place]):
            del kept[place]
    kept.extend(ours[0]["results"])
    return index


def _results(run: Entry) -> list[EvalResult]:
    """The verdict and every measured criterion of one task."""
    known = [criterion for criterion in run["criteria"] if criterion["value"]["value"] is not None]
    found = [(row["name"], label(row["name"]), row["value"]["value"]) for row in known]
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
        for metric, title, value in [("verdict", "circuit gate", run["verdict"]), *found]
    ]


def _is_ours(result: Any) -> bool:
    dataset = result.get("dataset") if isinstance(result, dict) else None
    return isinstance(dataset, dict) and str(dataset.get("type", "")).startswith(DATASET)


def _is_model(model: Any) -> bool:
    return isinstance(model, dict) and isinstance(model.get("results"), list)
