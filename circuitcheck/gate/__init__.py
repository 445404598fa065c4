"""The gate's pipelines: record a reference, measure a candidate, judge it, accept a baseline."""
