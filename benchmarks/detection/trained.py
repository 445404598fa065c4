"""Models that are trained by the embedded model's recipe: other seeds, and another architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from circuitcheck.embedded.corpus import END, UNKNOWN, build_tokenizer
from circuitcheck.embedded.train import build_model, train
from detection.healing import save_whole

STEPS = 1200
"""Half of the embedded model's; the Llama solves every prompt of all three tasks after them."""


def build_llama(tokenizer: Tokenizer) -> LlamaForCausalLM:
    """As wide and deep as the embedded model, eight query heads sharing two key/value heads."""
    end = tokenizer.token_to_id(END)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        intermediate_size=384,
        max_position_embeddings=256,
        use_cache=False,
        bos_token_id=end,
        eos_token_id=end,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config)


def build_neox(tokenizer: Tokenizer) -> Any:
    """The embedded model's shape."""
    model = build_model(tokenizer)
    model.set_attn_implementation("eager")
    return model


RECIPES: Mapping[str, tuple[Callable[[Tokenizer], Any], int]] = {
    "neox-1": (build_neox, 1),
    "neox-2": (build_neox, 2),
    "llama-3": (build_llama, 3),
}
"""Name to what builds the untrained model, and the seed of weights and text."""


def trained(name: str, cache: Path) -> tuple[Any, PreTrainedTokenizerFast]:
    """A model and its tokenizer, trained if its weights are not in `cache` yet; processes wait for each other.

    Args:
        name: a key of `RECIPES`.
        cache: directory in which weights are kept.
    """
    build, seed = RECIPES[name]
    cache.mkdir(parents=True, exist_ok=True)
    file = cache / f"{name}-{STEPS}.safetensors"
    with FileLock(file.with_suffix(".lock")):
        if not file.is_file():
            save_whole(dict(train(STEPS, seed, build)[0].state_dict()), file)
    tokenizer = build_tokenizer()
    model = build(tokenizer)
    model.load_state_dict(load_file(file))
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=UNKNOWN, bos_token=END, eos_token=END)
    return model.eval().requires_grad_(False), wrapped
