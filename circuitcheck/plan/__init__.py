"""What a recording costs, before anything is run: `python -m circuitcheck.plan MODEL`."""
