"""Showing verdicts. Nothing is computed here."""
