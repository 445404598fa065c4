"""Running a model over a task: clean passes, ablations, repairs and gradients."""
