"""Loading a model in the ONNX format from its file, or from the directory that holds it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from circuitcheck.core.candidates import ONNX
from circuitcheck.core.census import STATIC, STATIC_BITS, Census
from circuitcheck.core.runtime import Facts
from circuitcheck.runtimes.choose import Wanted
from circuitcheck.runtimes.onnx.execution import environment
from circuitcheck.runtimes.onnx.kernels import kernel_notes
from circuitcheck.runtimes.onnx.network import census_of, is_static, understand
from circuitcheck.runtimes.onnx.onnx_files import onnx_file, read_model
from circuitcheck.runtimes.onnx.onnx_model import OnnxModel
from circuitcheck.runtimes.onnx.runner import Runner
from circuitcheck.runtimes.pytorch.loading.fingerprint import fingerprint_tokenizer
from circuitcheck.runtimes.pytorch.loading.source import Source, source_at_hand
from circuitcheck.runtimes.pytorch.loading.tokenizer import load_tokenizer


def load(wanted: Wanted) -> OnnxModel:
    """A saved candidate, with the tokenizer beside it, or else the reference's.

    Raises:
        ModelError: see `load_onnx`; or a tokenizer that cannot be read.
        SiteError: its heads cannot be found.
    """
    path = wanted.path
    tokenizer = load_tokenizer(Source(path if path.is_dir() else path.parent))
    if tokenizer is None and wanted.reference is not None:
        reference = source_at_hand(wanted.reference, download=wanted.download)
        tokenizer = None if reference is None else load_tokenizer(reference)
    model = load_onnx(path, tokenizer=tokenizer)
    return replace(model, facts=replace(model.facts, notes=(*wanted.notes, *model.facts.notes)))


def load_onnx(source: str | Path, *, tokenizer: Any = None) -> OnnxModel:
    """Loads a model in the ONNX format, finds its heads and its logits, and counts what its weights are kept in.

    Args:
        source: an `.onnx` file, or a directory with one.
        tokenizer: its Hugging Face tokenizer, or None for tasks in token ids.

    Raises:
        ModelError: the file is missing, broken, not safe to read, or takes inputs that are not known.
        SiteError: its heads cannot be found.
    """
    file = onnx_file(source)
    name = file.stem if Path(source).suffix == ONNX else Path(source).resolve().name
    model, weights, outside = read_model(file)
    network = understand(model, weights, name)
    census = census_of(network)
    runner = Runner(network, name)
    first = network.heads[0].group
    facts = Facts(
        name=name,
        precision=_precision(census, is_static(network)),
        architecture={"n_layers": len(network.heads), "n_heads": first.count, "d_head": first.width},
        fingerprints={"weights": _fingerprint([file, *outside]), "tokenizer": fingerprint_tokenizer(tokenizer)},
        environment=environment(),
        census=census,
        vocabulary=network.vocabulary,
        batch_size=network.inputs.batch,
        notes=(*_notes(census), *kernel_notes(runner)),
    )
    return OnnxModel(runner, facts, tokenizer)


def _precision(census: Census, static: bool) -> str:
    """A release is called by the bits that were found in it, and by how its activations are rounded."""
    if census.level is not None:
        return STATIC if static and census.bits == STATIC_BITS else census.level
    sizes: dict[str, int] = {}
    for kind in census.before:
        sizes[kind.weight] = sizes.get(kind.weight, 0) + kind.parameters
    most = max(sizes, key=lambda kind: sizes[kind])
    return {"float16": "f16", "bfloat16": "bf16"}.get(most, "f32")


def _notes(census: Census) -> tuple[str, ...]:
    if census.claim is None:
        return ()
    return (
        f"A saved release ({census.claim}): limits follow the {census.bits:g} bits that its census found in "
        f"{census.quantized} of {census.projections} projections.",
    )


def _fingerprint(files: Iterable[Path]) -> str:
    """SHA-256 over the file and over those that it keeps weights in."""
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
