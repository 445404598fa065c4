"""Where a model's files are: a directory, a hub id, or one GGUF file. Nothing is loaded here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from safetensors import safe_open

from circuitcheck.core.candidates import EMBEDDED, GGUF, is_hub_id
from circuitcheck.core.errors import ModelError
from circuitcheck.core.phrases import listed
from circuitcheck.runtimes.pytorch.loading.border import require_counts, require_sound_files
from circuitcheck.runtimes.pytorch.loading.fingerprint import weight_files

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
NEEDED_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "tokenizer.model"]
PACKED_NAMES = (".weight_packed", ".qweight", "._weight_qdata")
"""What formats call a packed weight, which takes the place of `.weight`."""

ELSEWHERE = {
    "transformers_weights": "other files of weights",
    "configuration_files": "other files of configuration, by version of transformers",
}
"""Keys of a config.json by which transformers loads files that are not fingerprinted, to what they name."""

ADAPTER = "adapter_config.json"

QUANTIZED_TYPES = ("I8", "U8", "I32", "F8_E4M3", "F8_E5M2", "U16", "I16", "U32", "F4")
"""Types in safetensors files that quantized weights are kept in."""


@dataclass(frozen=True)
class Source:
    """The files of one model.

    Attributes:
        directory: where they lie.
        gguf: name of the GGUF file in it that holds the weights; None where safetensors do.
    """

    directory: Path
    gguf: str | None = None

    def __str__(self) -> str:
        """How messages call it."""
        return f"model file {self.directory / self.gguf}" if self.gguf else f"model in {self.directory}"

    @property
    def config(self) -> dict[str, Any]:
        """What config.json says; empty where there is none, or none that can be read."""
        try:
            config = json.loads((self.directory / CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return config if isinstance(config, dict) else {}

    @property
    def quantization(self) -> dict[str, Any]:
        """The `quantization_config` of a release in safetensors; empty where it claims nothing."""
        found = {} if self.gguf else self.config.get("quantization_config")
        return found if isinstance(found, dict) else {}


def model_name(source: str | Path) -> str:
    """How reports and baseline folders call a model: the last part of its path or hub id."""
    path = Path(source)
    if path.suffix == GGUF:
        return path.stem
    return path.resolve().name if path.is_dir() else str(source).rpartition("/")[2]


def full_name(source: str | Path, *, download: bool = False) -> str:
    """How recordings call a model: by its whole id where it comes from the hub, since owners share names of models."""
    is_from_hub = download and is_hub_id(str(source)) and not Path(source).expanduser().exists()
    return str(source) if is_from_hub else model_name(source)


def source_at_hand(source: str | Path, *, download: bool = False) -> Source | None:
    """A model's files as far as they lie on this machine, the hub's local cache included; None where they do not.

    Args:
        source: as for `resolve_source`.
        download: whether the hub's local cache may be looked into; the hub itself is not asked.

    Raises:
        ModelError: a directory of that name is here, and has no weights that may be read.
    """
    path = Path(source).expanduser()
    if str(source) == EMBEDDED or path.exists():
        return resolve_source(source)
    if not (download and is_hub_id(str(source))):
        return None
    from huggingface_hub import snapshot_download

    try:
        return resolve_source(snapshot_download(str(source), allow_patterns=NEEDED_FILES, local_files_only=True))
    except Exception:  # noqa: BLE001 - not in the cache, or a part of it only; the hub client raises its own
        return None


def resolve_source(source: str | Path, *, download: bool = False) -> Source:
    """Finds a model's files.

    Args:
        source: a directory, a GGUF file or, where nothing lies under that name, a hub id.
        download: whether the hub and its local cache may be asked.

    Raises:
        ModelError: there are none, none that may be read, or weights exist twice.
    """
    path = Path(source).expanduser()
    if path.suffix == GGUF and path.is_file():
        require_sound_files(path.parent)
        return Source(path.parent, path.name)
    if path.is_dir() and not weight_files(path):
        found = sorted(path.glob(f"*{GGUF}"))
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise ModelError(f"model directory {path} holds several GGUF files ({names}); name one of them.")
        if found:
            require_sound_files(path)
            return Source(path, found[0].name)
    return Source(resolve_directory(source, download=download))


def resolve_directory(source: str | Path, *, download: bool = False) -> Path:
    """The local directory of a model in safetensors.

    Args:
        source: that directory or, where there is none, a hub id.
        download: whether the hub and its local cache may be asked.

    Raises:
        ModelError: there is no such directory, the hub cannot be reached, there are no safetensors weights, weights
            exist twice, or something else than its own weights would be loaded.
    """
    if str(source) == EMBEDDED:
        return Path(str(files("circuitcheck.embedded") / "model"))
    directory = Path(source).expanduser()
    if not directory.is_dir():
        if directory.exists():
            raise ModelError(
                f"model {str(source)!r} is a file; give the directory that holds config.json and the weights."
            )
        directory = _fetched(str(source), download)
    if not (directory / CONFIG).is_file():
        raise ModelError(
            f"model directory {directory} has no config.json; give a directory saved with save_pretrained."
        )
    require_sound_files(directory)
    if not weight_files(directory):
        pickled = [path.name for path in [*directory.glob("*.bin"), *directory.glob("*.pt*")]]
        has = f"only pickled weights ({', '.join(pickled)}), and nothing is ever unpickled" if pickled else "no weights"
        raise ModelError(f"model directory {directory} has {has}; save it with save_pretrained as safetensors.")
    _require_own_files(directory)
    _refuse_doubled(directory)
    tensors = sum(len(_types(directory / name)) for name in _loadable(directory))
    require_counts(Source(directory).config, tensors, f"model in {directory}")
    return directory


def _fetched(source: str, download: bool) -> Path:
    if not is_hub_id(source):
        if "/" not in source and "\\" not in source and not source.endswith(GGUF):
            raise ModelError(f"model {source!r} is neither a directory nor a hub id (owner/name).")
        raise ModelError(f"model {'file' if source.endswith(GGUF) else 'directory'} {source!r} does not exist.")
    if not download:
        raise ModelError(
            f"model directory {source!r} does not exist. Correct the path or, if it is a hub id, allow the hub: "
            "--circuit-download, or load_model(..., download=True) in Python."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(source, allow_patterns=NEEDED_FILES))
    except (HFValidationError, ValueError) as error:
        raise ModelError(f"model {source!r} is neither a directory nor a hub id (owner/name).") from error
    except Exception as error:  # the hub client raises its own, HTTP and operating system errors alike
        raise ModelError(
            f"model {source!r} is no local directory, and could not be fetched from the hub "
            f"({type(error).__name__}). Give a directory, or download the model where there is a network."
        ) from error


def _require_own_files(directory: Path) -> None:
    """Refuses a directory of which transformers would load anything that is not fingerprinted.

    Fingerprints cover its config.json and the safetensors files that lie directly in it.
    """
    known = {file.name for file in weight_files(directory)}
    strange = [name for name in _named_shards(directory) if name not in known]
    if strange:
        raise ModelError(
            f"model directory {directory}: {INDEX} names weights that are no .safetensors files directly in it: "
            f"{listed(map(repr, strange), 5)}. Nothing else is loaded; put all shards beside their index."
        )
    config = Source(directory).config
    named = [f"{key} ({what})" for key, what in ELSEWHERE.items() if key in config]
    if named:
        raise ModelError(
            f"model directory {directory}: its config.json names {' and '.join(named)}, so that what is loaded would "
            "not be what is fingerprinted. Save it again with save_pretrained."
        )
    if (directory / ADAPTER).exists():
        raise ModelError(
            f"model directory {directory} holds an adapter ({ADAPTER}), whose base model lies elsewhere. Merge them "
            "(merge_and_unload), and save what is to be released with save_pretrained."
        )


def _named_shards(directory: Path) -> list[str]:
    """Files of weights that the index names, sorted; none where there is no index, or where the loader tells of it."""
    try:
        found = json.loads((directory / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return []
    return sorted({str(name) for name in found})


def _refuse_doubled(directory: Path) -> None:
    """Refuses weights that exist twice, of which a loader takes one without a word."""
    ggufs = sorted(file.name for file in directory.glob(f"*{GGUF}"))
    if ggufs:
        raise ModelError(
            f"model directory {directory} holds its weights twice: as safetensors, and as {', '.join(ggufs)}. Move one "
            "of them elsewhere, or name the GGUF file itself."
        )
    owners: dict[str, str] = {}
    twice = []
    for name in _loadable(directory):
        for tensor in _types(directory / name):
            if tensor in owners:
                twice.append(f"{tensor} (in {owners[tensor]} and {name})")
            owners.setdefault(tensor, name)
    for tensor in owners:
        packed = next((end for end in PACKED_NAMES if tensor.endswith(end)), None)
        plain = tensor.removesuffix(packed) + ".weight" if packed else ""
        if plain in owners:
            twice.append(f"{plain} (also as {tensor.rpartition('.')[2]})")
    if twice:
        raise ModelError(
            f"model directory {directory} holds weights twice, and which of them a loader takes is left to chance: "
            f"{listed(twice, 5)}. Save it again into an empty directory."
        )


def _loadable(directory: Path) -> list[str]:
    """Names of the files that transformers may take: the single one, and the shards that the index names."""
    names = {SINGLE, *_named_shards(directory)}
    return sorted(name for name in names if (directory / name).is_file())


def stored_types(directory: Path) -> set[str]:
    """Types of all tensors in the files that a loader may take, in safetensors' words, such as `F16` or `I8`."""
    return {kind for name in _loadable(directory) for kind in _types(directory / name).values()}


def _types(file: Path) -> dict[str, str]:
    """Name to type of a file's tensors; empty where it cannot be read, of which the loader tells."""
    try:
        with safe_open(file, "pt") as content:
            return {name: content.get_slice(name).get_dtype() for name in content.keys()}  # noqa: SIM118 - no dict
    except Exception:  # noqa: BLE001 - safetensors raises bare exceptions
        return {}
