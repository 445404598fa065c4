"""Golden baselines: the recorded reference circuit of one model and one task."""
