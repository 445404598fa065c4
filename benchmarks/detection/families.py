"""All families of candidates by name: what is done to a model before a gate sees it, benign or not."""

from __future__ import annotations

from detection.benign import BENIGN
from detection.faults import FAULTS

FAMILIES = {family.name: family for family in (*BENIGN, *FAULTS)}
"""Name to family."""
