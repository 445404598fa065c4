"""Names of what a candidate can be; light, so that the plugin can know them without loading torch."""

from __future__ import annotations

EMBEDDED = "embedded"
"""The model that ships with the package."""

PRECISIONS = ("f32", "f16", "bf16", "int8-sim")
"""Candidates that are made from the reference when it is loaded."""

SAVED = "saved"
"""The precision of a directory that is loaded as it was saved."""
