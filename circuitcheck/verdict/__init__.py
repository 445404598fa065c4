"""From measures to PASS, FAIL or INCONCLUSIVE. No model, no file."""
