"""circuit-tracer's layout: a directory with `config.yaml` and a transcoder for each layer, `layer_N.safetensors`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.tokens import AliasToken, AnchorToken, TagToken

from circuitcheck.core.bounded import read_bounded
from circuitcheck.core.errors import DictionaryError
from circuitcheck.core.phrases import first_lines, shortened
from circuitcheck.dictionaries.dictionary import Dictionary
from circuitcheck.dictionaries.hook_names import in_layer
from circuitcheck.dictionaries.tensor_file import FloatArray, read_arrays, require_shapes

CONFIG = "config.yaml"
LAYER_FILE = re.compile(r"layer_(\d{1,5})\.safetensors")
MOST_CONFIG = 2**16
KIND = "transcoder_set"
THRESHOLD = "activation_function.threshold"


def read(directory: Path, only: str | None = None) -> tuple[Dictionary, ...]:
    """The transcoders of a directory, in order of their layers.

    Args:
        directory: the directory.
        only: name of the one file that is read; all by default.

    Raises:
        DictionaryError: they cannot be read, or not be used.
    """
    config = _config(directory / CONFIG)
    kind = config.get("model_kind")
    if kind != KIND:
        raise DictionaryError(
            f"dictionary {directory} is a {shortened(str(kind))}, and of circuit-tracer's kinds only {KIND} has "
            "latents that write in one layer. Give one of these."
        )
    if "transcoders" in config:
        raise DictionaryError(
            f"dictionary {directory} names its transcoders by addresses, and nothing is fetched for a dictionary. Put "
            "them beside the configuration as layer_0.safetensors and so on, and remove the key transcoders."
        )
    found = {int(match[1]): file for file in directory.iterdir() if (match := LAYER_FILE.fullmatch(file.name))}
    chosen = {layer: file for layer, file in sorted(found.items()) if only in (None, file.name)}
    if not chosen:
        raise DictionaryError(f"dictionary {directory} has no layer_N.safetensors beside its {CONFIG}.")
    return tuple(_transcoder(layer, file, config) for layer, file in chosen.items())


def _config(file: Path) -> dict[str, Any]:
    """The settings; nothing in them is built, repeated or referred to."""
    try:
        text = read_bounded(file, MOST_CONFIG).decode()
        if any(
            isinstance(token, AliasToken | AnchorToken | TagToken) for token in YAML(typ="safe", pure=True).scan(text)
        ):
            raise ValueError("it has anchors or tags")
        config = YAML(typ="safe", pure=True).load(text)
    except OSError as error:
        raise DictionaryError(f"dictionary {file} cannot be read: {error.strerror or error}.") from error
    except (ValueError, YAMLError, RecursionError) as error:
        raise DictionaryError(f"dictionary {file} is no YAML that can be used: {first_lines(error)}.") from error
    if not isinstance(config, dict):
        raise DictionaryError(f"dictionary {file} is no table of settings.")
    return config


def _transcoder(layer: int, file: Path, config: Mapping[str, Any]) -> Dictionary:
    name = str(file)
    reads = in_layer(layer, config.get("feature_input_hook"), name)
    writes = in_layer(layer, config.get("feature_output_hook"), name)
    arrays = read_arrays(file, ("W_enc", "W_dec", "b_enc", "b_dec"), (THRESHOLD, "W_skip"))
    latents, width = _matrix(arrays, "W_enc", file)
    _, out = _matrix(arrays, "W_dec", file)
    shapes: dict[str, tuple[int, ...]] = {"W_dec": (latents, out), "b_enc": (latents,), "b_dec": (out,)}
    require_shapes(arrays, shapes | {"W_skip": (out, width)}, file)
    threshold = arrays.get(THRESHOLD, np.zeros(1, np.float32))
    if threshold.size not in (1, latents):
        raise DictionaryError(f"dictionary {file}: {THRESHOLD} is {list(threshold.shape)} instead of [{latents}].")
    return Dictionary(
        name=name,
        architecture="transcoder" if THRESHOLD not in arrays else "jumprelu_transcoder",
        reads=reads,
        writes=writes,
        encoder=np.ascontiguousarray(arrays["W_enc"].T),
        bias=arrays["b_enc"],
        threshold=np.broadcast_to(threshold.reshape(-1), (latents,)).copy(),
        decoder=arrays["W_dec"],
        decoder_bias=arrays["b_dec"],
        skip=arrays.get("W_skip"),
    )


def _matrix(arrays: Mapping[str, FloatArray], name: str, file: Path) -> tuple[int, int]:
    shape = arrays[name].shape
    if len(shape) != 2 or 0 in shape:
        raise DictionaryError(f"dictionary {file}: {name} is {list(shape)}, but must be a matrix.")
    return shape[0], shape[1]
