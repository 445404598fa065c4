"""Pure numbers: from metrics, importances and `z` to drift, rankings, damage and recovery, each with its interval."""
