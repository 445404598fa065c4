"""Which runtime a candidate's files run in: by what kind of files they are, and by what is installed here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from circuitcheck.core.candidates import ONNX, split_variant
from circuitcheck.core.errors import ConfigurationError, ModelError
from circuitcheck.core.phrases import extra_needed
from circuitcheck.runtimes import llamacpp

if TYPE_CHECKING:
    from circuitcheck.core.runtime import Runtime

AUTO = "auto"
"""The first runtime of the table that takes the files and can run here."""


@dataclass(frozen=True)
class Wanted:
    """A candidate's files, and how they are to be loaded.

    Attributes:
        source: a directory, a file, or a hub id.
        variant: what is to be changed about how it runs, such as `kv=q8_0`; empty for nothing.
        reference: where configuration and tokenizer come from if the files have none.
        device: where it goes; `auto` for the runtime's own choice.
        dtype: type of weights that are not quantized, `f32`, `f16` or `bf16`; `auto` for as they were saved.
        download: whether what is no local path may be taken from the hub, or from its local cache.
        notes: what the report must say of the choice of its runtime.
    """

    source: str
    variant: str = ""
    reference: str | None = None
    device: str = AUTO
    dtype: str = AUTO
    download: bool = False
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Where it lies, if it is no hub id."""
        return Path(self.source).expanduser()

    @property
    def is_as_shipped(self) -> bool:
        """Whether neither another type nor another device is asked for."""
        return self.dtype == AUTO and self.device in (AUTO, "cpu")


@dataclass(frozen=True)
class RuntimeKind:
    """A runtime that candidates can be loaded in.

    Attributes:
        title: what people call it.
        takes: whether it can load a candidate, going by names of files alone.
        loader: `module:function`, which takes what is `Wanted` and returns a `Runtime`; imported when it is used.
        packages: that must be installed.
        extra: that brings them.
        is_as_shipped: whether it runs files in their own types on the CPU only.
    """

    title: str
    takes: Callable[[Wanted], bool]
    loader: str
    packages: tuple[str, ...] = ()
    extra: str = ""
    is_as_shipped: bool = True

    @property
    def is_installed(self) -> bool:
        """Whether its packages are here."""
        return all(find_spec(package) is not None for package in self.packages)


def _is_onnx(wanted: Wanted) -> bool:
    """Whether it is an ONNX file, or a directory whose only weights are in that format."""
    path = wanted.path
    if wanted.variant or not path.is_dir():
        return not wanted.variant and path.suffix == ONNX
    return any(path.glob(f"*{ONNX}")) or (not any(path.glob("*.safetensors")) and any(path.glob(f"onnx/*{ONNX}")))


KINDS: dict[str, RuntimeKind] = {
    "llamacpp": RuntimeKind(
        "llama.cpp",
        lambda wanted: llamacpp.takes(wanted.path),
        "circuitcheck.runtimes.llamacpp.from_gguf:load",
        packages=("llama_cpp", "gguf"),
        extra="llamacpp",
    ),
    "onnx": RuntimeKind(
        "ONNX Runtime",
        _is_onnx,
        "circuitcheck.runtimes.onnx.from_onnx:load",
        packages=("onnx", "onnxruntime"),
        extra="onnx",
    ),
    "pytorch": RuntimeKind(
        "PyTorch",
        lambda wanted: not wanted.variant and not _is_onnx(wanted),
        "circuitcheck.runtimes.pytorch.loading.from_files:load",
        is_as_shipped=False,
    ),
}
"""Runtimes by the word that settings have for them; of several that take a candidate, the first is the one that its
users run it in."""

RUNTIMES = (AUTO, *KINDS)


def load_candidate(
    source: str,
    runtime: str = AUTO,
    *,
    reference: str | None = None,
    device: str = AUTO,
    dtype: str = AUTO,
    download: bool = False,
) -> Runtime:
    """Loads a saved candidate in the runtime that its users run it in, or in the one that is named.

    Args:
        source: a directory, a file or, with `download`, a hub id.
        runtime: one of `circuitcheck.runtimes.choose.RUNTIMES`.
        reference: where configuration and tokenizer come from if the files have none.
        device: where it goes; `auto` for the runtime's own choice.
        dtype: type of weights that are not quantized; `auto` for as they were saved.
        download: whether what is no local path may be taken from the hub, or from its local cache.

    Raises:
        ConfigurationError: an unknown runtime, or one that does not run such files, or not so.
        ModelError: packages are missing, or the files are not what they should be.
        SiteError: its units cannot be found.
    """
    wanted = Wanted(*split_variant(source), reference, device, dtype, download)
    kind, notes = choose(wanted, runtime)
    module, function = kind.loader.split(":")
    loaded: Runtime = getattr(import_module(module), function)(
        Wanted(wanted.source, wanted.variant, reference, device, dtype, download, notes)
    )
    return loaded


def choose(wanted: Wanted, runtime: str = AUTO) -> tuple[RuntimeKind, tuple[str, ...]]:
    """The runtime that a candidate is loaded in, and what the report must say of that.

    Raises:
        ConfigurationError: an unknown runtime, or one that does not run such files, or not so.
        ModelError: packages are missing.
    """
    if runtime not in RUNTIMES:
        raise ConfigurationError(f"runtime is {runtime!r}, but must be one of {', '.join(RUNTIMES)}.")
    taking = [kind for kind in KINDS.values() if kind.takes(wanted)]
    if runtime != AUTO:
        kind = KINDS[runtime]
        _require(kind, wanted, kind in taking)
        return kind, ()
    able = [kind for kind in taking if kind.is_installed and (wanted.is_as_shipped or not kind.is_as_shipped)]
    if not able:
        _require(taking[0], wanted, takes=True)
    return able[0], tuple(_passed_over(kind, able[0]) for kind in taking[: taking.index(able[0])])


def _require(kind: RuntimeKind, wanted: Wanted, takes: bool) -> None:
    """Raises the error that says why a runtime cannot be had, if it cannot."""
    if not takes:
        raise ConfigurationError(
            f"candidate {wanted.source!r} is nothing that {kind.title} runs; leave out --circuit-runtime, and it runs "
            "in what its files are made for."
        )
    if not kind.is_installed:
        raise ModelError(extra_needed(f"candidate {wanted.source!r} in {kind.title}", kind.extra))
    if kind.is_as_shipped and not wanted.is_as_shipped:
        raise ConfigurationError(
            f"candidate {wanted.source!r} runs in {kind.title} in its file's own types and on the CPU; leave out "
            "--circuit-dtype and --circuit-device, or unpack it with --circuit-runtime=pytorch."
        )


def _passed_over(kind: RuntimeKind, taken: RuntimeKind) -> str:
    """Why a candidate does not run in what its users run it in."""
    if not kind.is_installed:
        why, way = "is not installed", f'; install it with pip install "circuitcheck[{kind.extra}]"'
    else:
        why, way = "runs no other type and device than the file's own and the CPU's, and one was asked for", ""
    return f"It runs in {taken.title}, because {kind.title} {why}: what {kind.title}'s kernels do is missed{way}."
