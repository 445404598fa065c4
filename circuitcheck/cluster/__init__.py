"""Carrying out parts of patches on several machines, on Ray. Only `pool` imports it."""
