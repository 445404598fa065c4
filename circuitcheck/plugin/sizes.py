"""Amounts of memory as people write them."""

from __future__ import annotations

import re

from circuitcheck.core.errors import ConfigurationError

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_bytes(text: str) -> int:
    """Bytes of `800M`, `2GB`, `1.5 GiB` or `2000000`; units are powers of 1024.

    Raises:
        ConfigurationError: not an amount of memory above 0.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?\s*", text, flags=re.IGNORECASE)
    size = int(float(match[1]) * UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise ConfigurationError(f"memory is {text!r}, but must be an amount such as 800M or 2GB.")
    return size
