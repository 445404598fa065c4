"""What is asked of a model's files before anything is made of them: regular files, plain JSON, sizes that fit.

A configuration says how much memory a model takes, and it is a stranger's. So what it asks for is held against what its
files hold, first by its numbers and then on the meta device, before any of it is allocated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from circuitcheck.core.bounded import read_bounded
from circuitcheck.core.errors import ModelError
from circuitcheck.core.phrases import first_lines
from circuitcheck.core.strict_json import strict_json

TEXTS = (".json", ".txt", ".model", ".jinja")
"""Endings of what loaders read as a whole, beside weights."""

WEIGHTS = (".safetensors", ".gguf")
MOST_TEXT = 2**27
"""Bytes of one text: the largest tokenizers have a quarter of that."""

COUNTED = re.compile(r"layer|block|expert|head|group|depth|stage")
"""Keys whose numbers count parts of a model."""

LAYERS = re.compile(r"(num_|n_)?([a-z]+_)?layers?")
"""Keys whose numbers count layers, each of which has tensors of its own; where they share, it has fewer."""

POSITIONS = re.compile(r"position|seq|ctx|context|window")
"""Keys whose numbers count positions, for which some models build tables in every pass."""

MOST_PARTS, MOST_LAYERS, MOST_POSITIONS = 100_000, 1_000, 2**24
"""Parts of a model, layers where no tensor could be counted, and positions: no model has more than ten million."""

NUMBERS_A_BYTE, SMALL, MOST_BUFFERS = 8, 2**24, 2**31
"""A byte holds at most so many numbers, and a model that is no larger than `SMALL` numbers needs no bound; bytes of
tables that are no weights, such as masks of all positions."""


def require_sound_files(directory: Path) -> None:
    """Refuses devices, pipes and texts without end, and JSON that says two things at once.

    Raises:
        ModelError: names the file.
    """
    for file in sorted(directory.iterdir()):
        try:
            if file.suffix in TEXTS and not file.is_dir():
                content = read_bounded(file, MOST_TEXT)
                if file.suffix == ".json":
                    strict_json(content, constants=True)
            elif file.suffix in WEIGHTS and file.exists() and not file.is_file():
                raise ValueError("it is no regular file")
        except OSError as error:
            raise ModelError(f"{file} cannot be read: {error.strerror or error}.") from error
        except ValueError as error:
            part = "the tokenizer" if file.name.startswith("tokenizer") else "model"
            raise ModelError(f"{part} in {directory} cannot be loaded: {file.name}: {first_lines(error)}") from error


def require_counts(config: dict[str, Any], tensors: int, name: str) -> None:
    """Refuses a configuration that counts more layers than there are tensors, or absurdly many parts of any kind.

    Args:
        config: what config.json says, or a part of it.
        tensors: how many the files hold; 0 where they cannot be read, of which the loader tells.
        name: how messages call the model.

    Raises:
        ModelError: names the key.
    """
    for key, value in _integers(config):
        most = (tensors or MOST_LAYERS) if LAYERS.fullmatch(key) else MOST_PARTS if COUNTED.search(key) else 2**63
        most = min(most, MOST_POSITIONS) if POSITIONS.search(key) else most
        if not -(2**63) <= value <= most:
            raise ModelError(
                f"{name} does not fit its configuration: {key} is {_brief(value)}, and its files hold {tensors} "
                "tensors. Correct one of them."
            )


def require_size(config: Any, family: Any, stored: int, name: str) -> None:
    """Refuses a configuration that asks for far more numbers than the files hold.

    Args:
        config: the configuration as transformers has read it.
        family: the class of models that is loaded.
        stored: bytes of weights.
        name: how messages call the model.

    Raises:
        ModelError: says how many; or the model cannot be made from its configuration.
    """
    try:
        with torch.device("meta"):
            module = family.from_config(config) if hasattr(family, "from_config") else family(config)
    except Exception as error:  # every architecture raises its own
        raise ModelError(
            f"{name} cannot be loaded: its configuration does not make a model: {first_lines(error)}"
        ) from error
    numbers = sum(parameter.numel() for parameter in module.parameters())
    tables = sum(buffer.numel() * buffer.element_size() for buffer in module.buffers())
    if numbers > NUMBERS_A_BYTE * stored + SMALL or tables > MOST_BUFFERS:
        raise ModelError(
            f"{name} does not fit its configuration, which asks for {numbers} numbers and {tables} bytes of tables, "
            f"while its files hold {stored} bytes of weights. Correct one of them."
        )


def _integers(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _integers(item, name)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield key, value


def _brief(value: int) -> str:
    return str(value) if abs(value) < 10**18 else f"a number of {value.bit_length()} bits"
