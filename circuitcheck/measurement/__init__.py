"""Measuring a candidate against a golden baseline."""
