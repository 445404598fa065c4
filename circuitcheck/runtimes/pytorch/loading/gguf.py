"""What a GGUF file says of itself: the types of its tensors, its words, and the configuration of its model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from circuitcheck.core.census import FoundWeight
from circuitcheck.core.errors import ModelError
from circuitcheck.core.phrases import extra_needed, first_lines, listed
from circuitcheck.runtimes.pytorch.loading.border import require_counts
from circuitcheck.runtimes.pytorch.loading.gguf_layout import require_whole
from circuitcheck.runtimes.pytorch.quiet import quiet_quantizers

FLOAT_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16}
LAYER_MATRIX = re.compile(r"blk\.\d+\.(?!.*norm).*\.weight")
CONFIG_KEYS = ("block_count", "embedding_length", "attention.head_count")
"""Without these no configuration can be made; transformers fills in defaults for them without a word."""

ROPE_FACTORS = re.compile(r"rope_(freqs|factors_long|factors_short)\.weight")
"""Scaled rotary frequencies, which transformers drops, because a config.json says the same."""

NOTE = (
    "A GGUF file is unpacked to {dtype} when it is loaded: its weights are measured, and the kernels and activation "
    "types of llama.cpp are not."
)


@dataclass(frozen=True)
class StoredTensor(FoundWeight):
    """One tensor of a file; its `weight` is its type, such as `Q4_0`, and the scales of a block do not count as bits.

    Attributes:
        name: in the file.
        shape: outermost dimension first.
    """

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class GGUFContent:
    """What was read of a file, without its numbers.

    Attributes:
        tensors: all of them.
        has_config: whether it names its architecture and the sizes of its model.
        tokens: its words by token id; empty where it has no tokenizer.
    """

    tensors: tuple[StoredTensor, ...]
    has_config: bool
    tokens: tuple[str, ...]

    def fits(self, config: Any) -> bool:
        """Whether a configuration that was made from it agrees with its tables of words and positions."""
        sizes = {"token_embd.weight": "vocab_size", "position_embd.weight": "max_position_embeddings"}
        return all(
            tensor.shape[0] == getattr(config, sizes[tensor.name], None)
            for tensor in self.tensors
            if tensor.name in sizes
        )

    @property
    def has_rope_factors(self) -> bool:
        """Whether rotary frequencies are scaled by a tensor."""
        return any(ROPE_FACTORS.fullmatch(tensor.name) for tensor in self.tensors)

    @property
    def parameters(self) -> int:
        """Numbers in all tensors that are weights."""
        return sum(tensor.parameters for tensor in self.tensors if not ROPE_FACTORS.fullmatch(tensor.name))


def read_gguf(file: Path) -> GGUFContent:
    """Reads a file's metadata and its list of tensors.

    Raises:
        ModelError: the gguf package is missing, or this is no GGUF file.
    """
    with quiet_quantizers():
        try:
            from gguf import GGML_QUANT_SIZES, GGUFReader
        except ImportError as error:
            raise ModelError(extra_needed(f"model file {file}", "gguf")) from error
        try:
            require_whole(file, {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()})
            reader = GGUFReader(file)
            tensors = tuple(_stored(tensor.name, tensor.tensor_type.name, tensor.shape) for tensor in reader.tensors)
            require_counts(_counts(reader.fields), len(tensors), f"model file {file}")
            return GGUFContent(tensors, _has_config(reader.fields), _tokens(reader.fields))
        except ModelError:
            raise
        except Exception as error:  # the package raises whatever its parser meets
            raise ModelError(f"model file {file} cannot be read as GGUF: {first_lines(error)}") from error


def _stored(name: str, kind: str, reversed_shape: Iterable[int]) -> StoredTensor:
    shape = tuple(int(size) for size in reversed(list(reversed_shape)))
    return StoredTensor(
        module="GGUF",
        weight=kind,
        bits=float(FLOAT_BITS.get(kind) or re.findall(r"\d+", kind)[0]),
        parameters=prod(shape),
        is_projection=LAYER_MATRIX.fullmatch(name) is not None,
        is_quantized=kind not in FLOAT_BITS,
        name=name,
        shape=shape,
    )


def _counts(fields: dict[str, Any]) -> dict[str, Any]:
    """Its numbers; what it calls blocks are layers."""
    scalars = {name: field.contents() for name, field in fields.items() if len(field.types) == 1}
    return {name.rpartition(".")[2].replace("block_count", "num_layers"): value for name, value in scalars.items()}


def _has_config(fields: dict[str, Any]) -> bool:
    architecture = fields.get("general.architecture")
    if architecture is None:
        return False
    return all(f"{architecture.contents()}.{key}" in fields for key in CONFIG_KEYS)


def _tokens(fields: dict[str, Any]) -> tuple[str, ...]:
    field = fields.get("tokenizer.ggml.tokens")
    return () if field is None else tuple(field.contents())


def require_same_words(tokens: tuple[str, ...], tokenizer: Any, name: str) -> None:
    """Refuses a file that numbers its words otherwise than the tokenizer that is used with it.

    Raises:
        ModelError: names the first differences.
    """
    if not tokens or tokenizer is None:
        return
    known = sorted((number, word) for word, number in tokenizer.get_vocab().items() if number < len(tokens))
    wrong = [f"{number} is {tokens[number]!r}, not {word!r}" for number, word in known if tokens[number] != word]
    if wrong:
        raise ModelError(
            f"{name} has another tokenizer than the one beside it or of the reference: token {listed(wrong, 3, '; ')}."
        )
