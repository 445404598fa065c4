"""What the report's parts are called."""

from __future__ import annotations

from typing import Any

SCHEMA = 2

Entry = dict[str, Any]
"""One (candidate, task) of a report, as JSON."""

CRITERIA = {
    "behaviour_kept": "behaviour\nkept",
    "metric_change": "metric\nchange",
    "drift_median": "drift\nmedian",
    "drift_largest": "drift\nlargest",
    "ranking_agreement": "ranking\n(ceiling)",
    "profile_distance": "profile\ndistance",
    "unrepaired": "un-\nrepaired",
    "recovery": "recovery",
}
"""Criterion to column heading, in the order of the summary."""
