"""What all parts of the report share."""

from __future__ import annotations

from typing import Any

SCHEMA = 3

Entry = dict[str, Any]
"""One (candidate, task, kind of unit) of a report, as JSON."""
