"""Loading a GGUF file in llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from circuitcheck.core.census import Census, summarize_census
from circuitcheck.core.errors import ModelError
from circuitcheck.core.runtime import Facts
from circuitcheck.runtimes.choose import Wanted
from circuitcheck.runtimes.llamacpp.binding import PACKAGE, Binding, load_binding
from circuitcheck.runtimes.llamacpp.cache_types import CacheType, cache_type
from circuitcheck.runtimes.llamacpp.decoding import LoadedModel
from circuitcheck.runtimes.llamacpp.gguf_weights import GGUFWeights, open_weights
from circuitcheck.runtimes.llamacpp.llama_model import LlamaModel
from circuitcheck.runtimes.llamacpp.row_passes import SHARE, SMALL, Passes
from circuitcheck.runtimes.llamacpp.trial import try_file

if TYPE_CHECKING:
    from circuitcheck.runtimes.pytorch.loading.gguf import GGUFContent
    from circuitcheck.runtimes.pytorch.loading.source import Source

NOTE = (
    "Runs in llama.cpp ({package} {version}, ggml {build}; kernels for {instruction_sets}) on {threads} thread(s), "
    "flash attention {attention}, cache {cache}; m is read from its own logits."
)


def load(wanted: Wanted) -> LlamaModel:
    """A GGUF file as llama.cpp runs it.

    Raises:
        ConfigurationError: a cache that there is not, or that the model cannot have.
        ModelError: the binding is missing, or the file is damaged, incomplete, or has another tokenizer.
        SiteError: its heads cannot be found.
    """
    from circuitcheck.runtimes.pytorch.environment import environment
    from circuitcheck.runtimes.pytorch.loading.claims import claimed_method
    from circuitcheck.runtimes.pytorch.loading.fingerprint import fingerprint_file, fingerprint_tokenizer
    from circuitcheck.runtimes.pytorch.loading.gguf import read_gguf
    from circuitcheck.runtimes.pytorch.loading.precision import stored_precision
    from circuitcheck.runtimes.pytorch.loading.source import model_name, resolve_source
    from circuitcheck.runtimes.pytorch.threads import thread_count

    cache = cache_type(wanted.variant, wanted.source)
    source = resolve_source(wanted.source)
    assert source.gguf is not None  # of what `takes` takes
    file, name = source.directory / source.gguf, str(source)
    content = read_gguf(file)
    weights = open_weights(file, name)
    find_reference = partial(resolve_source, wanted.reference, download=wanted.download) if wanted.reference else None
    tokenizer = _tokenizer(source, content, find_reference)
    binding, threads = load_binding(), thread_count()
    try_file(file, cache, name)
    runs = _runs(LoadedModel(binding, file, name), weights, cache, threads, file.stat().st_size)
    claim = claimed_method(source, content)
    census = summarize_census(content.tensors, content.tensors, claim)
    machine = environment()
    machine["libraries"] = {**machine["libraries"], PACKAGE: binding.version}
    facts = Facts(
        name=model_name(wanted.source),
        precision=cache.beside(census.level or stored_precision(content)),
        architecture={"n_layers": weights.layers, "n_heads": weights.heads, "d_head": weights.width},
        fingerprints={"weights": fingerprint_file(file), "tokenizer": fingerprint_tokenizer(tokenizer)},
        environment=machine,
        census=census,
        vocabulary=weights.vocabulary,
        notes=(*wanted.notes, *_notes(binding, runs["head"], census, cache, threads)),
    )
    return LlamaModel(facts, tokenizer, weights, runs)


def _tokenizer(source: Source, content: GGUFContent, find_reference: Callable[[], Source] | None) -> Any:
    """The one beside the file or the reference's, if the file numbers its words like that one; or the file's own.

    None where transformers cannot rebuild that: prompts may be token ids.
    """
    from circuitcheck.runtimes.pytorch.loading.gguf import require_same_words
    from circuitcheck.runtimes.pytorch.loading.tokenizer import load_tokenizer

    found = load_tokenizer(source, replace(content, tokens=()), find_reference)
    if found is not None:
        require_same_words(content.tokens, found, str(source))
        return found
    try:
        return load_tokenizer(source, content)
    except ModelError:
        return None


def _runs(model: LoadedModel, weights: GGUFWeights, cache: CacheType, threads: int, size: int) -> dict[str, Passes]:
    if (model.layers, model.vocabulary) != (weights.layers, weights.vocabulary):
        raise ModelError(
            f"{model.name}: llama.cpp found {model.layers} layers and {model.vocabulary} tokens, and the file has "
            f"{weights.layers} and {weights.vocabulary}."
        )
    return {
        kind: Passes(
            model=model,
            layout=layout,
            cache=cache,
            threads=threads,
            row_bytes=weights.row_bytes,
            budget=max(SMALL, int(SHARE * size)),
        )
        for kind, layout in weights.layouts().items()
    }


def _notes(binding: Binding, passes: Passes, census: Census, cache: CacheType, threads: int) -> tuple[str, ...]:
    attention = "on" if passes.uses_flash_attention() else "off"
    ran = NOTE.format(
        package=PACKAGE,
        version=binding.version,
        build=binding.build,
        instruction_sets=binding.instruction_sets,
        threads=threads,
        attention=attention,
        cache=cache.name,
    )
    if census.claim is None:
        return (ran,)
    return (
        ran,
        f"A saved release ({census.claim}): limits follow the coarser of the {census.bits:g} bits that its census "
        f"found in {census.quantized} of {census.projections} projections and of its {cache.name} cache.",
    )
