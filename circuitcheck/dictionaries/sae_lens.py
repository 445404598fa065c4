"""SAELens' format: a directory with `cfg.json` and `sae_weights.safetensors`, from before and after its version 6.0."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from circuitcheck.core.bounded import read_bounded
from circuitcheck.core.errors import DictionaryError
from circuitcheck.core.phrases import first_lines, shortened
from circuitcheck.core.strict_json import strict_json
from circuitcheck.dictionaries.dictionary import Dictionary, Gate, HookPoint, Normalization
from circuitcheck.dictionaries.hook_names import parse_hook_name
from circuitcheck.dictionaries.tensor_file import FloatArray, read_arrays, require_shapes

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
MOST_CONFIG, MOST_WIDTH, MOST_LATENTS = 2**20, 2**17, 2**22


class Form(NamedTuple):
    """What an architecture's file holds beside encoder, decoder and their biases.

    Attributes:
        needed: arrays that have to be there.
        known: arrays that may be there, too.
        is_transcoder: whether it writes elsewhere than it reads.
    """

    needed: tuple[str, ...]
    known: tuple[str, ...] = ()
    is_transcoder: bool = False


SCALING = "scaling_factor"
FORMS = {
    "standard": Form(("b_enc",), (SCALING,)),
    "topk": Form(("b_enc",), (SCALING,)),
    "batchtopk": Form(("b_enc",), ("threshold", "topk_threshold")),
    "jumprelu": Form(("b_enc", "threshold"), (SCALING,)),
    "gated": Form(("b_gate", "b_mag", "r_mag"), (SCALING,)),
    "transcoder": Form(("b_enc",), is_transcoder=True),
    "skip_transcoder": Form(("b_enc", "W_skip"), is_transcoder=True),
    "jumprelu_transcoder": Form(("b_enc", "threshold"), is_transcoder=True),
    "jumprelu_skip_transcoder": Form(("b_enc", "threshold", "W_skip"), is_transcoder=True),
}
"""Architectures that are known; a batch-topk dictionary is one with a threshold once it is trained."""

OLD_NAMES = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
"""Keys from before 6.0 that were called otherwise."""

NORMALIZATIONS: dict[str, Normalization] = {
    "none": "none",
    "constant_norm_rescale": "constant_norm_rescale",
    "layer_norm": "layer_norm",
    "expected_average_only_in": "none",
    "covariance_whitening": "none",
}
"""What is done to activations while a model runs; the last two are folded into the weights after training."""

UNFOLDED = (
    "Dictionary {name} says {kind!r}: its scale belongs into its weights, and is not applied again, as in SAELens. If "
    "it was never folded in, its reconstruction tells."
)


def read(directory: Path) -> Dictionary:
    """The dictionary in a directory.

    Raises:
        DictionaryError: it cannot be read, or not be used.
    """
    name = str(directory)
    config = _config(directory / CONFIG)
    architecture = config.get("architecture")
    if not isinstance(architecture, str) or architecture not in FORMS:
        raise DictionaryError(
            f"dictionary {name} has the architecture {shortened(str(architecture))}, and known are {', '.join(FORMS)}. "
            "Give one of these."
        )
    if not (directory / WEIGHTS).exists():
        others = sorted(file.name for file in directory.iterdir() if file.name != CONFIG)
        raise DictionaryError(
            f"dictionary {name} has no {WEIGHTS}, but {', '.join(others[:4]) or 'nothing'}; pickled weights are never "
            "read, because they can run code. Save it again with sae.save_model."
        )
    form = FORMS[architecture]
    file = directory / WEIGHTS
    arrays = read_arrays(file, ("W_enc", "W_dec", "b_dec", *form.needed), form.known)
    reads, writes = _hook_points(config, form, name)
    _require_fit(config, form, arrays, file)
    kind = config.get("normalize_activations", "none")
    return Dictionary(
        name=name,
        architecture=architecture,
        reads=reads,
        writes=writes,
        **_latents(config, form, arrays, name),
        skip=arrays.get("W_skip"),
        normalization=NORMALIZATIONS[_normalization(kind, name)],
        centred=_is_centred(config, reads),
        notes=(UNFOLDED.format(name=name, kind=kind),) if NORMALIZATIONS[kind] != kind else (),
    )


def _config(file: Path) -> dict[str, Any]:
    """The configuration with the keys that 6.0 has, and what it says of the model among them."""
    try:
        config = strict_json(read_bounded(file, MOST_CONFIG), constants=True)
    except OSError as error:
        raise DictionaryError(f"dictionary {file} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise DictionaryError(f"dictionary {file} is no JSON that can be used: {first_lines(error)}.") from error
    if not isinstance(config, dict):
        raise DictionaryError(f"dictionary {file} is no table of settings.")
    metadata = config.get("metadata")
    if isinstance(metadata, dict):
        return metadata | config
    config = {OLD_NAMES.get(key, key): value for key, value in config.items()}
    config = {"architecture": "standard", "apply_b_dec_to_input": True} | config
    hook = config.get("hook_name")
    config.setdefault("reshape_activations", "hook_z" if isinstance(hook, str) and "hook_z" in hook else "none")
    more = config.get("activation_fn_kwargs")
    if config.get("activation_fn") == "topk" and isinstance(more, dict) and more.get("k") is not None:
        config |= {"architecture": "topk", "k": more["k"]}
    kind = config.get("normalize_activations")
    if kind is None or isinstance(kind, bool):
        config["normalize_activations"] = "expected_average_only_in" if kind else "none"
    return config


def _hook_points(config: Mapping[str, Any], form: Form, name: str) -> tuple[HookPoint, HookPoint]:
    if config.get("hook_head_index") is not None:
        raise DictionaryError(
            f"dictionary {name} is of the single head {shortened(str(config['hook_head_index']))}; give one that reads "
            "all heads of its layer (reshape_activations hook_z)."
        )
    reads = parse_hook_name(config.get("hook_name"), name)
    out = config.get("hook_name_out")
    if form.is_transcoder:
        if not out:
            raise DictionaryError(
                f"dictionary {name} is a {config['architecture']} and does not say where it writes: its configuration "
                "has no hook_name_out. Add it, as in blocks.3.hook_mlp_out."
            )
        return reads, parse_hook_name(out, name)
    if out and parse_hook_name(out, name) != reads:
        raise DictionaryError(
            f"dictionary {name} is a transcoder, from {reads} to {parse_hook_name(out, name)}, and its architecture "
            f"{config['architecture']!r} is that of an autoencoder. Say transcoder there, or give an autoencoder."
        )
    reshape = config.get("reshape_activations", "none")
    if reshape not in ("none", "hook_z") or (reshape == "hook_z") != (reads.place == "z"):
        raise DictionaryError(
            f"dictionary {name}: reshape_activations is {shortened(str(reshape))}, and it stands at {reads}; hook_z "
            "belongs to heads' values and to nothing else."
        )
    return reads, reads


def _require_fit(config: Mapping[str, Any], form: Form, arrays: Mapping[str, FloatArray], file: Path) -> None:
    width, latents = _size(config, "d_in", MOST_WIDTH, file), _size(config, "d_sae", MOST_LATENTS, file)
    out = _size(config, "d_out", MOST_WIDTH, file) if form.is_transcoder else width
    reads_it = arrays["W_enc"].shape[:1] == (width,)
    if not form.is_transcoder and reads_it and arrays["W_dec"].ndim == 2 and arrays["W_dec"].shape[1] != width:
        raise DictionaryError(
            f"dictionary {file} reads {width} numbers and writes {arrays['W_dec'].shape[1]}: it is a transcoder, and "
            f"its architecture {config['architecture']!r} is that of an autoencoder. Say transcoder there, or give an "
            "autoencoder."
        )
    shapes: dict[str, tuple[int, ...]] = {
        "W_enc": (width, latents),
        "W_dec": (latents, out),
        "b_dec": (out,),
        "W_skip": (out, width),
        "topk_threshold": (),
    }
    shapes |= dict.fromkeys(("b_enc", "threshold", "b_gate", "b_mag", "r_mag", SCALING), (latents,))
    require_shapes(arrays, shapes, file)


def _size(config: Mapping[str, Any], key: str, most: int, file: Path) -> int:
    value = config.get(key)
    if type(value) is not int or not 1 <= value <= most:
        raise DictionaryError(
            f"dictionary {file.parent}: {key} is {shortened(str(value))}, but must be a number from 1 to {most}."
        )
    return value


def _normalization(kind: Any, name: str) -> str:
    if not isinstance(kind, str) or kind not in NORMALIZATIONS:
        raise DictionaryError(
            f"dictionary {name}: normalize_activations is {shortened(str(kind))}, and known are "
            f"{', '.join(NORMALIZATIONS)}."
        )
    return kind


def _is_centred(config: Mapping[str, Any], reads: HookPoint) -> bool:
    """Whether the model that it was trained on had the mean taken away from what it writes to the stream."""
    more = config.get("model_from_pretrained_kwargs")
    asked = isinstance(more, dict) and more.get("center_writing_weights") is True
    return asked and reads.place in ("resid_pre", "resid_post", "attn_out", "mlp_out")


def _latents(config: Mapping[str, Any], form: Form, arrays: Mapping[str, FloatArray], name: str) -> dict[str, Any]:
    """Encoder and decoder in the one form that all are brought to."""
    double = {key: array.astype(np.float64) for key, array in arrays.items()}
    encoder, decoder, architecture = double["W_enc"], double["W_dec"], config["architecture"]
    bias = double["b_gate"] if architecture == "gated" else double["b_enc"]
    if not form.is_transcoder and config.get("apply_b_dec_to_input", True):
        shift = double["b_dec"] @ encoder
    else:
        shift = np.zeros(encoder.shape[1])
    gate = None
    if architecture == "gated":
        scale = np.exp(double["r_mag"])
        gate = Gate(_single(scale), _single(double["b_mag"] - shift * scale))
    bias = bias - shift
    if config.get("rescale_acts_by_decoder_norm") and architecture in ("topk", "batchtopk"):
        norms = np.linalg.norm(decoder, axis=1)
        if not norms.all():
            raise DictionaryError(f"dictionary {name}: a latent writes nothing, and is to be scaled by what it writes.")
        encoder, bias, decoder = encoder * norms, bias * norms, decoder / norms[:, None]
    if config.get("finetuning_scaling_factor") and SCALING in double:
        decoder = decoder * double[SCALING][:, None]
    return {
        "encoder": _single(encoder),
        "bias": _single(bias),
        "threshold": _threshold(config, arrays, encoder.shape[1], name),
        "decoder": _single(decoder),
        "decoder_bias": arrays["b_dec"],
        "k": _k(config, encoder.shape[1], name) if architecture == "topk" else None,
        "gate": gate,
    }


def _threshold(config: Mapping[str, Any], arrays: Mapping[str, FloatArray], latents: int, name: str) -> FloatArray:
    """Latents are rectified, too, so that no threshold is below 0."""
    found = arrays.get("threshold", arrays.get("topk_threshold"))
    if found is None and config["architecture"] == "batchtopk":
        raise DictionaryError(
            f"dictionary {name} is a batchtopk without a threshold: how many latents are on would depend on what else "
            "is in a batch. Save it for inference (in SAELens: save_inference_model)."
        )
    return np.maximum(np.broadcast_to(np.float32(0) if found is None else found, (latents,)), np.float32(0))


def _k(config: Mapping[str, Any], latents: int, name: str) -> int:
    k = config.get("k")
    if type(k) is not int or not 1 <= k <= latents:
        raise DictionaryError(f"dictionary {name}: k is {shortened(str(k))}, but must be a number from 1 to {latents}.")
    return k


def _single(values: Any) -> FloatArray:
    return np.ascontiguousarray(values, np.float32)
