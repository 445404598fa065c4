"""Criteria and limits: what a candidate must keep. No model, no file."""
