"""Hook points by the names that TransformerLens gives them, which all formats of dictionaries use."""

from __future__ import annotations

import re

from circuitcheck.core.errors import DictionaryError
from circuitcheck.core.phrases import shortened
from circuitcheck.dictionaries.dictionary import HookPoint, Place

NAMES: dict[str, Place] = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "mlp.hook_in": "mlp_in",
    "mlp.hook_out": "mlp_out",
    "ln2.hook_normalized": "mlp_in",
    "attn.hook_z": "z",
}
"""What follows `blocks.3.` to the place."""

IN_LAYER = re.compile(r"blocks\.(\d{1,5})\.(\S+)")
MODULE = re.compile(r"(?:[a-z_]+\.)*(?:layers|h)\.(\d{1,5})")
"""A layer's own path in a Hugging Face model, whose output is the stream behind it."""


def parse_hook_name(name: object, dictionary: str) -> HookPoint:
    """The hook point of a full name, `blocks.3.hook_resid_post`.

    Args:
        name: as the configuration has it.
        dictionary: how messages call the dictionary.

    Raises:
        DictionaryError: there is none that units can be read and written at.
    """
    text = name if isinstance(name, str) else ""
    found = IN_LAYER.fullmatch(text)
    if found and found[2] in NAMES:
        return HookPoint(int(found[1]), NAMES[found[2]])
    module = MODULE.fullmatch(text)
    if module:
        return HookPoint(int(module[1]), "resid_post")
    raise DictionaryError(
        f"dictionary {dictionary} stands at the hook point {shortened(str(name))}, which cannot be read and written. "
        f"Give one that stands at blocks.N.{{{', '.join(NAMES)}}}."
    )


def in_layer(layer: int, name: object, dictionary: str) -> HookPoint:
    """The hook point of a name without its layer, `mlp.hook_in`; errors as in `parse_hook_name`."""
    return parse_hook_name(f"blocks.{layer}.{name}" if isinstance(name, str) else name, dictionary)
