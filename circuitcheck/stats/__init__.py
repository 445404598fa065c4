"""Pure numbers: estimates with intervals, drift, rankings, damage and recovery. No model, no file."""
