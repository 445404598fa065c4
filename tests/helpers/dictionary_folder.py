"""Dictionaries that are written down: each direction of the stream and its opposite is a latent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def write_signs(folder: Path, width: int, hook: str = "blocks.0.hook_resid_post", scale: float = 1.0) -> Path:
    """A dictionary in SAELens' format that explains everything: f = relu(x, -x), and f writes x back `scale` times."""
    both = np.concatenate([np.eye(width), -np.eye(width)], 1).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "architecture": "standard",
        "d_in": width,
        "d_sae": 2 * width,
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.0.0", "hook_name": hook},
    }
    (folder / "cfg.json").write_text(json.dumps(settings))
    weights = {
        "W_enc": both,
        "W_dec": np.ascontiguousarray(scale * both.T),
        "b_enc": np.zeros(2 * width, np.float32),
        "b_dec": np.zeros(width, np.float32),
    }
    save_file(weights, folder / "sae_weights.safetensors")
    return folder
