"""The gate's own tests: `pytest --pyargs circuitcheck.suite --circuit-model DIR --circuit-candidate SPEC`."""
