"""Words as types: units, prompts, patches, activations, specifications and results. Needs numpy only."""
