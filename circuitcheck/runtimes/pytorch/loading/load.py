"""Loading a reference or a candidate from a directory, a GGUF file or the hub."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from circuitcheck.core.candidates import FLOATS, SAVED
from circuitcheck.core.census import Census, summarize_census
from circuitcheck.core.errors import ConfigurationError, ModelError
from circuitcheck.core.metric import LOGIT_DIFFERENCE, Function, Metric, as_metric, metric_from_settings
from circuitcheck.runtimes.pytorch.compiled import NOTE as COMPILED_NOTE
from circuitcheck.runtimes.pytorch.compiled import is_compiled, uncompiled, unwrapped
from circuitcheck.runtimes.pytorch.default_type import float32_by_default
from circuitcheck.runtimes.pytorch.environment import resolve_device
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.claims import (
    claimed_method,
    plain_notes,
    require_claim,
    require_quantized_files,
)
from circuitcheck.runtimes.pytorch.loading.device_map import DeviceMap
from circuitcheck.runtimes.pytorch.loading.find_weights import find_weights, take_census
from circuitcheck.runtimes.pytorch.loading.fingerprint import (
    fingerprint_directory,
    fingerprint_file,
    fingerprint_module,
    fingerprint_tokenizer,
)
from circuitcheck.runtimes.pytorch.loading.gguf import NOTE as GGUF_NOTE
from circuitcheck.runtimes.pytorch.loading.gguf import GGUFContent, read_gguf
from circuitcheck.runtimes.pytorch.loading.precision import NAMES, dtype_for, precision_of, stored_precision
from circuitcheck.runtimes.pytorch.loading.source import (
    Source,
    full_name,
    model_name,
    resolve_directory,
    resolve_source,
    source_at_hand,
)
from circuitcheck.runtimes.pytorch.loading.tokenizer import load_tokenizer
from circuitcheck.runtimes.pytorch.loading.transformers_loader import ATTENTION, first_pass, load_module
from circuitcheck.runtimes.pytorch.offload import is_offloaded
from circuitcheck.runtimes.pytorch.ports.structure import Structure, resolve
from circuitcheck.runtimes.pytorch.quantizers.int8_sim import NOTE as INT8_SIM_NOTE
from circuitcheck.runtimes.pytorch.quantizers.int8_sim import simulate_int8
from circuitcheck.runtimes.pytorch.quantizers.recipes import RECIPES
from circuitcheck.runtimes.pytorch.quiet import quiet_quantizers

__all__ = ["hook_module", "load_model", "model_name", "resolve_directory"]


@float32_by_default()
def load_model(
    source: str | Path,
    precision: str = "f32",
    *,
    device: str = "auto",
    reference: str | Path | None = None,
    download: bool = False,
    device_map: str | None = None,
    offload: Path | None = None,
    memory: int | None = None,
) -> HookedModel:
    """Loads a model, finds its attention heads, and proves what was loaded.

    Args:
        source: `embedded`, a Hugging Face directory, a GGUF file or a directory that holds only one, or with `download`
            a hub id such as `EleutherAI/pythia-70m`.
        precision: `f32` (a reference), any other name in `circuitcheck.core.candidates.PRECISIONS`, or `saved` for the
            types that the release holds.
        device: where the model goes, such as `cpu` or `cuda:1`; `auto` takes a CUDA device where there is one.
        reference: where configuration and tokenizer come from if a GGUF file has none.
        download: whether what is no local path may be taken from the hub, or from its local cache.
        device_map: for models that do not fit: `auto` keeps as many weights as memory, or half of `memory`, holds, and
            leaves the rest in its safetensors files until they are needed; `disk` leaves all layers there; or a JSON
            file of modules and devices.
        offload: folder for weights that cannot be read as their files hold them, such as stacked experts.
        memory: budget in bytes for weights and sweeps together, where there is a device map.

    Returns:
        The model in evaluation mode, with eager attention on both sides of every comparison.

    Raises:
        ConfigurationError: an unknown precision, a device that is not there, or weights that cannot lie where they are
            asked to.
        ModelError: the model is missing, incomplete, pickled, needs remote code or packages that are not installed, or
            is not what it claims to be.
        SiteError: its attention output projections cannot be found.
    """
    dtype = dtype_for(precision)
    found = resolve_source(source, download=download)
    find_reference = None if reference is None else partial(resolve_source, reference, download=download)
    place = resolve_device(device)
    content = read_gguf(found.directory / found.gguf) if found.gguf else None
    claim = claimed_method(found, content)
    if claim and (precision in RECIPES or precision == "int8-sim"):
        raise ModelError(f"{found} is already quantized ({claim}), so {precision} cannot be made from it.")
    require_quantized_files(found)
    asked = DeviceMap(device_map, offload, memory)
    if asked and (claim or content is not None or precision not in (*FLOATS, SAVED)):
        raise ConfigurationError(
            f"{found} is {claim or precision}: only float weights of safetensors files can be left where they lie. "
            "Load it without a device map."
        )
    module = load_module(found, dtype, place, content=content, find_reference=find_reference, device_map=asked)
    tokenizer = load_tokenizer(found, content, find_reference)
    structure = resolve(module)
    notes = _made(module, structure, precision)
    census, more = _census(found, module, structure, content, claim or (precision if precision in RECIPES else None))
    require_claim(found, census)
    return HookedModel(
        module=module,
        structure=structure,
        tokenizer=tokenizer,
        name=full_name(source, download=download),
        precision=_precision(precision, module, census, content),
        fingerprints={"weights": _fingerprint(found), "tokenizer": fingerprint_tokenizer(tokenizer)},
        notes=tuple(
            dict.fromkeys(
                (
                    *notes,
                    *more,
                    *plain_notes(found),
                    *_release_notes(claim, census, content, module),
                    *_elsewhere(module),
                )
            )
        ),
        census=census,
    )


def _made(module: nn.Module, structure: Structure, precision: str) -> tuple[str, ...]:
    if precision == "int8-sim":
        simulate_int8(module, structure)
        return (INT8_SIM_NOTE,)
    if precision not in RECIPES:
        return ()
    with quiet_quantizers():
        return RECIPES[precision](module, structure)


def _census(
    source: Source, module: nn.Module, structure: Structure, content: GGUFContent | None, claim: str | None
) -> tuple[Census, tuple[str, ...]]:
    """The census, and what the first pass had to say; a model that claims nothing cannot be unpacked by one."""
    before = find_weights(module, structure)
    if content is not None:
        return summarize_census(content.tensors, before, claim), ()
    if claim is None:
        return summarize_census(before, before, claim), ()
    notes = first_pass(source, module)
    return summarize_census(before, find_weights(module, structure), claim), notes


def _precision(asked: str, module: nn.Module, census: Census, content: GGUFContent | None) -> str:
    """A saved release is called by the bits that were found in it, whatever it is called by its maker."""
    if asked in RECIPES:
        return asked
    if census.level is not None:
        return census.level
    if asked != SAVED:
        return asked
    return precision_of(module) if content is None else stored_precision(content)


def _release_notes(
    claim: str | None, census: Census, content: GGUFContent | None, module: nn.Module
) -> tuple[str, ...]:
    notes = []
    if claim is not None:
        notes.append(
            f"A saved release ({claim}): limits follow the {census.bits:g} bits that its census found in "
            f"{census.quantized} of {census.projections} projections."
        )
    if content is not None:
        notes.append(GGUF_NOTE.format(dtype=NAMES.get(next(module.parameters()).dtype, "its own type")))
    return tuple(notes)


def _elsewhere(module: nn.Module) -> tuple[str, ...]:
    if not is_offloaded(module):
        return ()
    return (
        "Weights lie in files, or in another memory, until they are needed. What plain rounding does to this model was "
        "not measured, because a rounded copy would have to fit memory.",
    )


def _fingerprint(source: Source) -> str:
    return fingerprint_file(source.directory / source.gguf) if source.gguf else fingerprint_directory(source.directory)


def weights_at_hand(source: str | Path, *, download: bool = False) -> str | None:
    """The fingerprint of a model's weights, which are not loaded; None where they are not on this machine.

    Args:
        source: as for `load_model`.
        download: whether the hub's local cache may be looked into.

    Raises:
        ModelError: what is here cannot be read.
    """
    found = source_at_hand(source, download=download)
    return None if found is None else _fingerprint(found)


def hook_module(
    module: nn.Module,
    structure: Structure | None = None,
    *,
    tokenizer: Any = None,
    name: str = "model",
    precision: str = "f32",
    metric: str | Function | Metric = LOGIT_DIFFERENCE,
) -> HookedModel:
    """Wraps a model in memory, which is neither copied nor changed.

    Args:
        module: any model whose `forward(input_ids)` returns logits or an object with `logits`; what `torch.compile`
            made of one is measured uncompiled.
        structure: where its heads are; found by itself for Hugging Face models.
        tokenizer: its Hugging Face tokenizer, if it has one.
        name: how reports and baseline folders call it.
        precision: whose limits on drift it is judged by.
        metric: what is measured of a prompt: a name, also `package.module:function`, which is then imported, or a
            function of the model's output, for encoders and classifiers.

    Raises:
        ConfigurationError: a metric that does not exist.
        SiteError: `structure` is not given and cannot be found.
    """
    notes = (COMPILED_NOTE.format(name=name),) if is_compiled(module) else ()
    module = unwrapped(module)
    with uncompiled(module):
        structure = structure or resolve(module)
        return HookedModel(
            module=module,
            structure=structure,
            tokenizer=tokenizer,
            name=name,
            precision=precision,
            fingerprints={"weights": fingerprint_module(module), "tokenizer": fingerprint_tokenizer(tokenizer)},
            notes=(*notes, *_attention_notes(name, module)),
            census=take_census(module, structure),
            quantity=metric_from_settings(metric) if isinstance(metric, str) else as_metric(metric),
        )


def _attention_notes(name: str, module: nn.Module) -> tuple[str, ...]:
    """A model in memory is left as it is, so its attention kernel may be another than that of models loaded here."""
    attention = getattr(getattr(module, "config", None), "_attn_implementation", None)
    if attention in (None, ATTENTION):
        return ()
    return (f"{name} runs {attention} attention, and models that circuitcheck loads run {ATTENTION} attention.",)
