"""Trains the embedded model: `python -m circuitcheck.embedded.train DIRECTORY`.

A GPT-NeoX of 4 layers x 8 heads x d_model 128 (the architecture of Pythia), small enough to ship and to gate in
seconds, that solves the three built-in tasks on prompts that its training text does not contain.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tqdm import tqdm
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from circuitcheck.embedded.corpus import END, UNKNOWN, build_tokenizer, sentences

BATCH, LENGTH, STEPS, LEARNING_RATE, SEED = 128, 32, 2500, 2e-3, 0
SHORTEST_SCHEDULE = 100


def build_model(tokenizer: Tokenizer) -> GPTNeoXForCausalLM:
    """The untrained model, in float32."""
    end = tokenizer.token_to_id(END)
    config = GPTNeoXConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=8,
        intermediate_size=512,
        max_position_embeddings=256,
        use_cache=False,
        bos_token_id=end,
        eos_token_id=end,
    )
    return GPTNeoXForCausalLM(config)


def batches(tokenizer: Tokenizer, rng: random.Random) -> Iterator[torch.Tensor]:
    """Endless token ids `[BATCH, LENGTH]`; each row starts with a whole sentence and is cut at its end."""
    end = tokenizer.encode(END).ids
    stream = sentences(rng)
    while True:
        rows = []
        for _ in range(BATCH):
            row: list[int] = []
            while len(row) < LENGTH:
                row += [*tokenizer.encode(next(stream)).ids, *end]
            rows.append(row[:LENGTH])
        yield torch.tensor(rows)


def train(
    steps: int = STEPS, seed: int = SEED, build: Callable[[Tokenizer], Any] = build_model
) -> tuple[Any, Tokenizer]:
    """Trains from a seed, with a progress bar that shows the loss in nats per token.

    Args:
        steps: of the optimizer.
        seed: of weights and text.
        build: makes the untrained model; another architecture can be trained likewise.
    """
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = build(tokenizer).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    # The warm-up of so short a run as 20 steps would be a single step, from which the scheduler divides by zero.
    planned = max(steps, SHORTEST_SCHEDULE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=planned, pct_start=0.05)
    stream = batches(tokenizer, random.Random(seed))
    progress = tqdm(range(steps), desc="training", unit="step", mininterval=2)
    for _ in progress:
        ids = next(stream)
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return model.eval(), tokenizer


def save(model: GPTNeoXForCausalLM, tokenizer: Tokenizer, directory: Path) -> None:
    """Writes a Hugging Face directory: config, safetensors and `tokenizer.json`."""
    model.save_pretrained(directory)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=UNKNOWN, bos_token=END, eos_token=END)
    wrapped.save_pretrained(directory)


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="where to write the Hugging Face directory")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of weights and text (default: %(default)s)")
    arguments = parser.parse_args()
    model, tokenizer = train(arguments.steps, arguments.seed)
    save(model, tokenizer, arguments.directory)
    print(f"wrote {arguments.directory}")


if __name__ == "__main__":
    main()
