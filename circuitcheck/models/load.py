"""Loading a reference or a candidate from a directory or the hub."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import nn

from circuitcheck.errors import ConfigurationError, ModelError
from circuitcheck.models.fingerprint import (
    fingerprint_directory,
    fingerprint_module,
    fingerprint_tokenizer,
    weight_files,
)
from circuitcheck.models.hooked import HookedModel
from circuitcheck.models.int8_sim import NOTE as INT8_SIM_NOTE
from circuitcheck.models.int8_sim import simulate_int8
from circuitcheck.models.precision import DTYPES, precision_of
from circuitcheck.models.specs import EMBEDDED, SAVED
from circuitcheck.sites.structure import Structure, resolve

ATTENTION = "eager"
"""One attention implementation for references and candidates; every architecture has it."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer_config.json")
NEEDED_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "tokenizer.model"]


def load_model(source: str | Path, precision: str = "f32", *, device: str = "auto") -> HookedModel:
    """Loads a model and finds its attention heads.

    Args:
        source: `embedded`, a Hugging Face directory, or a hub id such as `EleutherAI/pythia-70m`.
        precision: `f32` (a reference), `f16`, `bf16`, `int8-sim`, or `saved` for the types that the directory holds.
        device: where the model goes, such as `cpu` or `cuda:1`; `auto` takes a CUDA device where there is one.

    Returns:
        The model in evaluation mode, with eager attention on both sides of every comparison.

    Raises:
        ConfigurationError: an unknown precision, or a device that is not there.
        ModelError: the model is missing, incomplete, pickled, or needs remote code.
        SiteError: its attention output projections cannot be found.
    """
    if precision not in DTYPES:
        raise ConfigurationError(f"unknown precision {precision!r}: it is none of {', '.join(DTYPES)}.")
    directory = resolve_directory(source)
    place = resolve_device(device)
    module = _load_module(directory, DTYPES[precision]).to(place)
    tokenizer = _load_tokenizer(directory)
    structure = resolve(module)
    notes: tuple[str, ...] = ()
    if precision == "int8-sim":
        simulate_int8(module, structure)
        notes = (INT8_SIM_NOTE,)
    return HookedModel(
        module=module,
        structure=structure,
        tokenizer=tokenizer,
        name=model_name(source),
        precision=precision_of(module) if precision == SAVED else precision,
        fingerprints={
            "weights": fingerprint_directory(directory),
            "tokenizer": fingerprint_tokenizer(tokenizer),
        },
        notes=notes,
    )


def resolve_device(device: str) -> torch.device:
    """The device of that name; `auto` is CUDA where there is any, and else the CPU.

    Raises:
        ConfigurationError: there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:  # PyTorch asserts that it was built with CUDA
        raise ConfigurationError(f"device {device!r} cannot be used here: {_first_lines(error)}") from error
    return place


def hook_module(
    module: nn.Module,
    structure: Structure | None = None,
    *,
    tokenizer: Any = None,
    name: str = "model",
    precision: str = "f32",
) -> HookedModel:
    """Wraps a model in memory, which is neither copied nor changed.

    Args:
        module: any model whose `forward(input_ids)` returns logits or an object with `logits`.
        structure: where its heads are; found by itself for Hugging Face causal language models.
        tokenizer: its Hugging Face tokenizer, if it has one.
        name: how reports and baseline folders call it.
        precision: whose limits on drift it is judged by.

    Raises:
        SiteError: `structure` is not given and cannot be found.
    """
    return HookedModel(
        module=module,
        structure=structure or resolve(module),
        tokenizer=tokenizer,
        name=name,
        precision=precision,
        fingerprints={"weights": fingerprint_module(module), "tokenizer": fingerprint_tokenizer(tokenizer)},
        notes=_attention_notes(name, module),
    )


def _attention_notes(name: str, module: nn.Module) -> tuple[str, ...]:
    """A model in memory is left as it is, so its attention kernel may be another than that of models loaded here."""
    attention = getattr(getattr(module, "config", None), "_attn_implementation", None)
    if attention in (None, ATTENTION):
        return ()
    return (f"{name} runs {attention} attention, and models that circuitcheck loads run {ATTENTION} attention.",)


def model_name(source: str | Path) -> str:
    """How reports and baseline folders call a model: the last part of its path or hub id."""
    return Path(source).resolve().name if Path(source).is_dir() else str(source).rpartition("/")[2]


def resolve_directory(source: str | Path) -> Path:
    """The local directory of a model, downloaded from the hub where `source` is a hub id.

    Raises:
        ModelError: there is no such directory, the hub cannot be reached, or there are no safetensors weights.
    """
    if str(source) == EMBEDDED:
        return Path(str(files("circuitcheck.embedded") / "model"))
    directory = Path(source).expanduser()
    if not directory.is_dir():
        if directory.exists():
            raise ModelError(
                f"model {str(source)!r} is a file; give the directory that holds config.json and the weights."
            )
        directory = _download(str(source))
    if not (directory / "config.json").is_file():
        raise ModelError(
            f"model directory {directory} has no config.json; give a directory saved with save_pretrained."
        )
    if not weight_files(directory):
        pickled = [path.name for path in [*directory.glob("*.bin"), *directory.glob("*.pt*")]]
        has = f"only pickled weights ({', '.join(pickled)}), and nothing is ever unpickled" if pickled else "no weights"
        raise ModelError(f"model directory {directory} has {has}; save it with save_pretrained as safetensors.")
    return directory


def _download(source: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    if source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source:
        raise ModelError(f"model directory {source!r} does not exist.")
    try:
        return Path(snapshot_download(source, allow_patterns=NEEDED_FILES))
    except (HFValidationError, ValueError) as error:
        raise ModelError(f"model {source!r} is neither a directory nor a hub id.") from error
    except Exception as error:  # the hub client raises its own, HTTP and operating system errors alike
        raise ModelError(
            f"model {source!r} is no local directory, and could not be fetched from the hub "
            f"({type(error).__name__}). Give a directory, or download the model where there is a network."
        ) from error


def _load_module(directory: Path, dtype: torch.dtype | str) -> nn.Module:
    from transformers import AutoModelForCausalLM

    try:
        with _quiet():
            module, info = AutoModelForCausalLM.from_pretrained(
                directory,
                dtype=dtype,
                attn_implementation=ATTENTION,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
            )
    except Exception as error:  # transformers, safetensors and json each raise their own
        raise ModelError(f"model in {directory} cannot be loaded: {_first_lines(error)}") from error
    wrong = {
        kind: keys
        for kind, keys in info.items()
        if keys and kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
    }
    if wrong or info.get("error_msgs"):
        listing = "; ".join(f"{kind.replace('_', ' ')}: {_some(keys)}" for kind, keys in wrong.items())
        raise ModelError(f"model in {directory} does not fit its config.json: {listing or info['error_msgs']}")
    return module.eval()  # type: ignore[no-any-return]


def _some(keys: Any) -> str:
    listed = sorted(_named(key) for key in keys)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")


def _named(key: Any) -> str:
    """A key, or a mismatched one with the shape that the file holds and the one that the config asks for."""
    if isinstance(key, str):
        return key
    name, held, asked = key
    return f"{name} ({list(held)} instead of {list(asked)})"


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__


def _load_tokenizer(directory: Path) -> Any:
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        return None
    from transformers import AutoTokenizer

    try:
        with _quiet():
            return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare exceptions
        raise ModelError(f"the tokenizer in {directory} cannot be loaded: {_first_lines(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the libraries' own progress bars out of test output, and leaves their settings as they were."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    was_enabled, hub_was_disabled = logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    verbosity = logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where HF_HUB_DISABLE_PROGRESS_BARS=0 is set
        logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if was_enabled:
            logging.enable_progress_bar()
        # The library's switch turns the hub's, too.
        if hub_was_disabled and not are_progress_bars_disabled():
            disable_progress_bars()
        elif not hub_was_disabled and are_progress_bars_disabled():
            enable_progress_bars()
