"""Recordings without what takes most of the time of one."""

from __future__ import annotations

from typing import Any

from circuitcheck import Baseline, record_reference


def record(*arguments: Any, **options: Any) -> Baseline:
    """As `record_reference`, but for the thirty roundings of the reference unless a test asks for them."""
    return record_reference(*arguments, **{"roundings": (), **options})
