"""Loading the tokenizer of a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from circuitcheck.core.errors import ModelError
from circuitcheck.core.phrases import first_lines
from circuitcheck.runtimes.pytorch.loading.gguf import GGUFContent, require_same_words
from circuitcheck.runtimes.pytorch.loading.source import Source
from circuitcheck.runtimes.pytorch.quiet import quiet

MOST_TOKENS = 2**24
"""Largest id of a token: writing a vocabulary down, tokenizers walks through all numbers below its largest one, and
keeps those that no token has. Vocabularies of a million are the largest that are known."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer_config.json")


def load_tokenizer(
    source: Source, content: GGUFContent | None = None, find_reference: Callable[[], Source] | None = None
) -> Any:
    """The Hugging Face tokenizer beside the weights, or None.

    A GGUF file is used with the tokenizer beside it, or else the reference's, if it numbers its words like that one;
    only without either is its own rebuilt from it.

    Raises:
        ModelError: a tokenizer cannot be loaded, or is not the one of the GGUF file.
    """
    tokenizer = _in_directory(source.directory)
    if content is None:
        return tokenizer
    if tokenizer is None and find_reference is not None:
        tokenizer = _in_directory(find_reference().directory)
    if tokenizer is not None:
        require_same_words(content.tokens, tokenizer, str(source))
        return tokenizer
    return _load(source.directory, gguf_file=source.gguf) if content.tokens else None


def _in_directory(directory: Path) -> Any:
    return _load(directory) if any((directory / name).is_file() for name in TOKENIZER_FILES) else None


def _load(directory: Path, **options: Any) -> Any:
    from transformers import AutoTokenizer

    try:
        with quiet():
            found = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False, **options)
            largest = max(found.get_vocab().values(), default=0)
    except Exception as error:  # tokenizers raises bare exceptions
        raise ModelError(f"the tokenizer in {directory} cannot be loaded: {first_lines(error)}") from error
    if largest > MOST_TOKENS:
        raise ModelError(
            f"the tokenizer in {directory} numbers a token {largest:,}, and {MOST_TOKENS:,} is the most that is read; "
            "mend its files, or take them from where the model comes from."
        )
    return found
