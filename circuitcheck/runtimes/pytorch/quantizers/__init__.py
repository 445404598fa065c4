"""Candidates that are made from the reference in memory."""
