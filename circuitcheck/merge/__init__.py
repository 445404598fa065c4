"""Puts the parts of a run, which `--circuit-shard` made one by one, together into what one run would have made."""
