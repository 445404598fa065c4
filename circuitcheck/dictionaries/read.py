"""Reading dictionaries by path, whatever format they are in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from circuitcheck.core.errors import DictionaryError
from circuitcheck.core.phrases import listed
from circuitcheck.dictionaries import circuit_tracer, sae_lens
from circuitcheck.dictionaries.dictionary import Dictionary

EMBEDDED = "embedded"
"""The dictionary that ships with the package, of the model that does."""

EMBEDDED_DIRECTORY = Path(__file__).parents[1] / "embedded" / "dictionary"

PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".npz", ".npy")
"""Endings of weights that can hold code, or that this does not read."""


def read_dictionaries(path: str | Path) -> tuple[Dictionary, ...]:
    """The dictionaries that lie under a path, in order of their layers.

    Args:
        path: `embedded`; a directory of SAELens, with `cfg.json` and `sae_weights.safetensors`; a directory of
            circuit-tracer, with `config.yaml` and a `layer_N.safetensors` for each layer; or one of the latter's files.

    Raises:
        DictionaryError: there is none, or none that can be used.
    """
    path = EMBEDDED_DIRECTORY if path == EMBEDDED else Path(path)
    if path.is_dir() and (path / sae_lens.CONFIG).exists():
        return (sae_lens.read(path),)
    if path.is_dir() and (path / circuit_tracer.CONFIG).exists():
        return circuit_tracer.read(path)
    if circuit_tracer.LAYER_FILE.fullmatch(path.name) and path.is_file():
        return circuit_tracer.read(path.parent, path.name)
    raise DictionaryError(_nothing_at(path))


def read_all(paths: Iterable[str | Path]) -> tuple[Dictionary, ...]:
    """The dictionaries under several paths, in order of execution.

    Raises:
        DictionaryError: as in `read_dictionaries`, or two of them write at one hook point.
    """
    found = [dictionary for path in paths for dictionary in read_dictionaries(path)]
    names: dict[object, list[str]] = {}
    for dictionary in found:
        names.setdefault(dictionary.writes, []).append(dictionary.name)
    twice = [f"{', '.join(named)} at {point}" for point, named in names.items() if len(named) > 1]
    if twice:
        raise DictionaryError(
            f"dictionaries {'; '.join(twice)} write at one hook point, so that what the one explains is the other's "
            "unexplained rest. Give one for each hook point."
        )
    return tuple(sorted(found, key=lambda one: one.writes.layer))


def _nothing_at(path: Path) -> str:
    if not path.exists():
        return f"dictionary {path} does not exist. Give the directory that it was saved to."
    inside = sorted(path.iterdir()) if path.is_dir() else [path]
    pickled = [file.name for file in inside if file.suffix.lower() in PICKLED]
    if pickled:
        return (
            f"dictionary {path} holds {listed(pickled, 4)}, and pickled weights are never read, because they can run "
            f"code. Save it again as {sae_lens.WEIGHTS} with {sae_lens.CONFIG} (in SAELens: sae.save_model)."
        )
    return (
        f"dictionary {path} is none that is known: it holds neither {sae_lens.CONFIG} with {sae_lens.WEIGHTS} "
        f"(SAELens), nor {circuit_tracer.CONFIG} with layer_N.safetensors (circuit-tracer)."
    )
