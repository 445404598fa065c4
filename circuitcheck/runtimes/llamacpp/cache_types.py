"""Types of llama.cpp's cache of keys and values, which a release chooses as it chooses the types of its weights."""

from __future__ import annotations

from dataclasses import dataclass

from circuitcheck.core.errors import ConfigurationError

NUMBERS = {
    "f32": 0,
    "f16": 1,
    "bf16": 30,
    "q8_0": 8,
    "q5_1": 7,
    "q5_0": 6,
    "q4_1": 3,
    "q4_0": 2,
    "iq4_nl": 20,
}
"""Type to ggml's number of it; those that `llama-server --cache-type-k` knows."""

PRECISIONS = {"f32": "f32", "f16": "f16", "bf16": "bf16", "q8_0": "8-bit"}
"""Precision that a cache of some types stands for; of all others, `4-bit`."""

ORDER = ("f32", "f16", "bf16", "8-bit", "float8", "4-bit", "3-bit", "2-bit")
"""Precisions, finest first."""

DEFAULT = "f16"
"""What llama.cpp takes where nobody says otherwise."""


@dataclass(frozen=True)
class CacheType:
    """The type of keys and values alike.

    Attributes:
        name: in llama.cpp's words.
    """

    name: str = DEFAULT

    @property
    def number(self) -> int:
        """Of the type in ggml."""
        return NUMBERS[self.name]

    @property
    def has_flash_attention(self) -> bool:
        """Whether llama.cpp may fuse attention as it likes; its fused attention rounds a float32 cache to float16."""
        return self.name != "f32"

    @property
    def precision(self) -> str:
        """What it does to a model, in the words of the limits."""
        return PRECISIONS.get(self.name, "4-bit")

    def beside(self, weights: str) -> str:
        """The coarser of its own precision and that of the weights."""
        return max(weights, self.precision, key=ORDER.index)


def cache_type(variant: str, source: str) -> CacheType:
    """The type that a variant such as `kv=q8_0` names; the default where there is none.

    Raises:
        ConfigurationError: another variant, or an unknown type.
    """
    if not variant:
        return CacheType()
    key, _, name = variant.partition("=")
    if key != "kv" or name not in NUMBERS:
        raise ConfigurationError(
            f"candidate {source}@{variant}: a GGUF file has variants by the type of its cache only, such as "
            f"{source}@kv=q8_0; known types are {', '.join(NUMBERS)}."
        )
    return CacheType(name)
