"""Trains the embedded model's dictionary: `python -m circuitcheck.embedded.train_dictionary DIRECTORY`.

A sparse autoencoder of the residual stream behind layer 2, 512 latents of which 16 are on at any position (TopK, Gao et
al. 2024, arXiv:2406.04093), trained on the embedded model's own training text and written in SAELens' format.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from circuitcheck.embedded.corpus import build_tokenizer
from circuitcheck.embedded.train import batches
from circuitcheck.runtimes.pytorch.loading.load import load_model

LAYER, LATENTS, K = 2, 512, 16
TEXTS, ROWS, STEPS, LEARNING_RATE, SEED = 24, 1024, 2000, 2e-3, 0
"""Batches of training text, positions a step, steps of the optimizer, its rate, and the seed of everything."""

AUXILIARY, DEAD_AFTER = 1 / 32, 50
"""Weight of the loss by which latents come back to life that were off for so many steps, as in that paper."""


def activations(texts: int = TEXTS, seed: int = SEED) -> Tensor:
    """The stream behind the layer on training text, `[positions, d_model]`.

    Without its mean over dimensions, which every LayerNorm takes away: a release that rotates its stream has none.
    """
    module = load_model("embedded", device="cpu").module
    stream = batches(build_tokenizer(), random.Random(seed))
    with torch.no_grad():
        found = [module(next(stream), output_hidden_states=True).hidden_states[LAYER + 1] for _ in range(texts)]
    x = torch.cat(found).flatten(0, 1)
    return x - x.mean(1, keepdim=True)


def train(x: Tensor, steps: int = STEPS, seed: int = SEED) -> dict[str, Tensor]:
    """The weights, by SAELens' names.

    Args:
        x: `[positions, d_model]`.
        steps: of the optimizer.
        seed: of weights and batches.
    """
    torch.manual_seed(seed)
    decoder = torch.nn.functional.normalize(torch.randn(LATENTS, x.shape[1]), dim=1)
    weights = {
        "W_enc": decoder.T.clone(),
        "W_dec": decoder,
        "b_enc": torch.zeros(LATENTS),
        "b_dec": x.mean(0),
    }
    weights = {name: value.contiguous().requires_grad_() for name, value in weights.items()}
    optimizer = torch.optim.Adam(weights.values(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=max(steps, 100), pct_start=0.1)
    spread, off = x.var(0).sum(), torch.zeros(LATENTS)
    progress = tqdm(range(steps), desc="training", unit="step", mininterval=2)
    for _ in progress:
        rows = x[torch.randint(len(x), (ROWS,))]
        before = (rows - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
        latents = _largest(before, K)
        left = rows - latents @ weights["W_dec"] - weights["b_dec"]
        off = torch.where((latents > 0).any(0), 0, off + 1)
        loss = left.square().sum(1).mean() / spread
        if (is_dead := off > DEAD_AFTER).any():
            revived = _largest(before.masked_fill(~is_dead, -torch.inf), min(2 * K, int(is_dead.sum())))
            loss = loss + AUXILIARY * (left.detach() - revived @ weights["W_dec"]).square().sum(1).mean() / spread
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            weights["W_dec"].div_(weights["W_dec"].norm(dim=1, keepdim=True))
        progress.set_postfix(unexplained=f"{loss.item():.4f}", dead=int(is_dead.sum()), refresh=False)
    return {name: value.detach() for name, value in weights.items()}


def _largest(before: Tensor, k: int) -> Tensor:
    """The k largest of each row, rectified, and 0 elsewhere."""
    values, places = before.topk(k, dim=-1)
    return torch.zeros_like(before).scatter(-1, places, values.relu())


def save(weights: dict[str, Tensor], directory: Path) -> None:
    """Writes `cfg.json` and `sae_weights.safetensors`."""
    config: dict[str, Any] = {
        "architecture": "topk",
        "k": K,
        "d_in": weights["W_enc"].shape[0],
        "d_sae": LATENTS,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": {
            "sae_lens_version": "6.0.0",
            "hook_name": f"blocks.{LAYER}.hook_resid_post",
            "model_name": "circuitcheck/embedded",
            "model_from_pretrained_kwargs": {"center_writing_weights": True},
        },
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cfg.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    save_file(weights, directory / "sae_weights.safetensors")


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="where to write the dictionary")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of weights and text (default: %(default)s)")
    arguments = parser.parse_args()
    save(train(activations(seed=arguments.seed), arguments.steps, arguments.seed), arguments.directory)
    print(f"wrote {arguments.directory}")


if __name__ == "__main__":
    main()
