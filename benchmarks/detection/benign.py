"""Candidates of the embedded model that a gate must pass: only quantized, in another basis, or the reference again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from circuitcheck.core.candidates import BITSANDBYTES, EMBEDDED, SAVED, TORCHAO
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.load import load_model
from circuitcheck.runtimes.pytorch.quantizers.rtn import quantize_rtn
from detection.bases import KINDS, change_basis
from detection.candidate import LabelledCandidate
from detection.rounding import round_to

GROUPS = (None, 16, 32, 64)
"""Group sizes at 8 bits; None is one scale for each output channel."""

FINE_GROUPS = (8, 16, 32, 64, 128)
"""Group sizes at 4 bits; 128 is a whole input row of attention."""

OTHER_ATTENTION = "sdpa"
"""Models are loaded with eager attention."""

SEEDS_8, SEEDS_4 = 9, 24
"""Stochastic roundings of each group size."""

SEEDS_OF_BASES = 2

BATCHES, THREADS, ORDERS = (1, 2, 5, 16, 32), (1, 2, 3, 4), 10

Options = dict[str, Any]


def benign() -> list[LabelledCandidate]:
    """All of them; those of torchao and bitsandbytes only where the library is installed."""
    return [*_reruns(), *_precisions(), *_natives(), *_rounded(), *_rewritten()]


def _candidate(family: str, variant: str, precision: str, build: Any, **options: Any) -> LabelledCandidate:
    kind = "rerun" if precision == "f32" else "precision"
    return LabelledCandidate(f"{family}, {variant}", kind, family, "benign", (), precision, build, **options)


def _reruns() -> Iterator[LabelledCandidate]:
    """The reference under every source of noise."""
    yield from _variations("f32", "reference", THREADS, ORDERS)
    yield _candidate("reference", "reloaded", "f32", _reloaded)


def _precisions() -> Iterator[LabelledCandidate]:
    for precision in ("f16", "bf16", "int8-sim"):
        yield from _variations(precision, precision, THREADS[1:2], 3)


def _natives() -> Iterator[LabelledCandidate]:
    """Quantized by libraries, with their own kernels."""
    for library, specs in (("torchao", TORCHAO), ("bitsandbytes", BITSANDBYTES)):
        for spec in specs if find_spec(library) else ():
            load = partial(load_model, EMBEDDED, spec, device="cpu")
            yield _candidate(spec, "as it is", spec, load)
            yield _candidate(spec, "order 0", spec, load, order=0)


def _variations(precision: str, family: str, threads: tuple[int, ...], orders: int) -> Iterator[LabelledCandidate]:
    load = partial(load_model, EMBEDDED, precision, device="cpu")
    yield _candidate(family, "as it is", precision, load)
    for size in BATCHES:
        yield _candidate(family, f"batches of {size}", precision, partial(_batched, precision, size))
    for count in threads:
        yield _candidate(family, f"{count} threads", precision, load, threads=count)
    for seed in range(orders):
        yield _candidate(family, f"order {seed}", precision, load, order=seed)
    yield _candidate(family, f"{OTHER_ATTENTION} attention", precision, partial(_other_attention, precision))


def _batched(precision: str, size: int) -> HookedModel:
    return replace(load_model(EMBEDDED, precision, device="cpu"), batch_size=size)


def _other_attention(precision: str) -> HookedModel:
    model = load_model(EMBEDDED, precision, device="cpu")
    module: Any = model.module
    module.set_attn_implementation(OTHER_ATTENTION)
    return model


def _reloaded() -> HookedModel:
    model = load_model(EMBEDDED, device="cpu")
    module: Any = model.module
    with TemporaryDirectory() as directory:
        module.save_pretrained(directory)
        model.tokenizer.save_pretrained(directory)
        return load_model(Path(directory), SAVED, device="cpu")


def _rounded() -> Iterator[LabelledCandidate]:
    """To the nearest, and stochastically."""
    for bits, groups, seeds in ((8, GROUPS, SEEDS_8), (4, FINE_GROUPS, SEEDS_4)):
        for group in groups:
            precision = f"int{bits}-rtn"
            family = f"{precision} {'per channel' if group is None else f'g{group}'}"
            for seed in (None, *range(seeds)):
                variant = "to nearest" if seed is None else f"stochastic {seed}"
                yield _candidate(family, variant, precision, partial(rounded, bits, group, seed))


def rounded(bits: int, group_size: int | None = None, seed: int | None = None) -> HookedModel:
    """The embedded model, rounded to nearest, or stochastically where there is a seed."""
    model = load_model(EMBEDDED, device="cpu")
    quantize_rtn(model.module, model.structure, bits, group_size=group_size, stochastic_seed=seed)
    return replace(model, precision=f"int{bits}-rtn")


def _rewritten() -> Iterator[LabelledCandidate]:
    """The same computation in other bases: renumbered heads among them."""
    for kind, seed, precision in product(KINDS, range(SEEDS_OF_BASES), ("f32", "f16", "int8-rtn", "int4-rtn")):
        yield _candidate(kind, f"{seed}, {precision}", precision, partial(rewritten, kind, seed, precision))


def rewritten(kind: str, seed: int, precision: str) -> HookedModel:
    """The embedded model in another basis, and then rounded."""
    model = load_model(EMBEDDED, device="cpu")
    change_basis(model.module, kind, seed)
    round_to(model.module, precision)
    return replace(model, precision=precision)
