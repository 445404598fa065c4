"""Candidates that a gate must pass: only quantized, in any way that people do, or computing the same."""

from __future__ import annotations

from collections.abc import Callable

import torch

from circuitcheck.core.candidates import BITSANDBYTES, TORCHAO
from circuitcheck.core.errors import ModelError
from circuitcheck.runtimes.pytorch.ports.structure import resolve
from circuitcheck.runtimes.pytorch.quantizers.recipes import RECIPES
from circuitcheck.runtimes.pytorch.quiet import quiet_quantizers
from detection import quantizing, surgery
from detection.anatomy import linear_maps, matrix
from detection.bases import KINDS, change_basis
from detection.family import Family, Job, Touched, plainly


def _rerun(job: Job) -> None:
    """As it is, or with another attention kernel."""
    job.module.set_attn_implementation(job.choice("eager", "sdpa"))


def _stochastic(job: Job) -> None:
    quantizing.round_plainly(job.module, job.bits, job.choice(None, 32, 16, 64), job.seed)


def _mixed(job: Job) -> None:
    """First and last layer at 8 bits, the rest at 4."""
    kept = [path for layer in (0, job.layers - 1) for path in surgery.paths_of(job.module, layer)]
    saved = {path: matrix(job.module.get_submodule(path)).clone() for path in kept}
    quantizing.round_plainly(job.module, 4, quantizing.GROUP)
    with torch.no_grad():
        for path, weight in saved.items():
            matrix(job.module.get_submodule(path)).copy_(weight)
            surgery.round_projection(job.module, path, 8)


def _everything(job: Job) -> None:
    plainly(job)
    quantizing.round_embeddings(job.module, 8)


def _by_a_library(job: Job) -> None:
    """By the library that a release would use, with its own kernels."""
    try:
        with quiet_quantizers():
            RECIPES[job.precision](job.module, resolve(job.module))
    except ModelError as error:
        raise LookupError(str(error)) from error


def _gptq(job: Job) -> None:
    quantizing.round_by_gptq(job.module, job.bits, job.model.calibration, job.choice(32, None, 16))


def _awq(job: Job) -> None:
    quantizing.fold_scales(job.module, job.model.calibration, strength=job.choice(0.5, 0.25), by_weight=False)
    quantizing.round_plainly(job.module, job.bits, quantizing.GROUP)


def _smoothquant(job: Job) -> None:
    quantizing.fold_scales(job.module, job.model.calibration, strength=job.choice(0.5, 0.3), by_weight=True)
    quantizing.round_plainly(job.module, 8)
    quantizing.round_activations(job.module, 8)


def _with_activations(job: Job) -> None:
    plainly(job)
    quantizing.round_activations(job.module, None if job.precision == "float8" else 8)


def _cache_at_8(job: Job) -> None:
    plainly(job)
    quantizing.round_cache(job.module, 8)


def _rewritten(job: Job) -> Touched:
    change_basis(job.module, job.choice(*KINDS), job.seed)
    return {}


def _small_adapter(job: Job) -> Touched:
    size = {"f32": 1e-5, "8-bit": 0.002, "4-bit": 0.02}[job.precision]
    for _, linear in linear_maps(job.module):
        surgery.merge_adapter(matrix(linear), 4, size, job.generator)
    return {}


def _unedited(_: Job) -> Touched:
    return {}


def _family(
    name: str,
    quantize: Callable[[Job], None] = plainly,
    precisions: tuple[str, ...] = ("8-bit", "4-bit"),
    edit: Callable[[Job], Touched] = _unedited,
    seeds: int = 1,
) -> Family:
    return Family(name, True, edit, quantize, precisions, seeds)


BENIGN = (
    _family("computed again", _rerun, ("f32",), seeds=2),
    _family(
        "rounded per channel", lambda job: quantizing.round_plainly(job.module, job.bits), ("8-bit", "4-bit", "3-bit")
    ),
    _family(
        "rounded in groups",
        lambda job: quantizing.round_plainly(job.module, job.bits, job.choice(32, 16, 64, 8)),
        ("8-bit", "4-bit", "3-bit"),
        seeds=4,
    ),
    _family("rounded stochastically", _stochastic, ("8-bit", "4-bit", "3-bit"), seeds=12),
    _family(
        "rounded asymmetrically",
        lambda job: quantizing.round_asymmetrically(job.module, job.bits, job.choice(32, None, 16)),
        ("8-bit", "4-bit", "3-bit"),
        seeds=3,
    ),
    _family(
        "normal float",
        lambda job: quantizing.round_to_normal_float(job.module, job.choice(64, 32)),
        ("4-bit",),
        seeds=2,
    ),
    _family(
        "clipped to the least error",
        lambda job: quantizing.round_clipped(job.module, job.bits, job.choice(32, None)),
        ("4-bit", "3-bit"),
        seeds=2,
    ),
    _family("GPTQ", _gptq, ("8-bit", "4-bit", "3-bit"), seeds=3),
    _family("AWQ", _awq, ("4-bit", "3-bit"), seeds=2),
    _family("SmoothQuant and W8A8", _smoothquant, ("8-bit",), seeds=2),
    _family("activations rounded, too", _with_activations, ("8-bit", "4-bit", "float8")),
    _family("float8 weights", precisions=("float8",)),
    _family("half precision", precisions=("f16", "bf16")),
    _family("int8-sim", precisions=("int8-sim",)),
    _family("cache at 8 bits", _cache_at_8),
    _family("another basis", precisions=("f32", "8-bit", "4-bit"), edit=_rewritten, seeds=2 * len(KINDS)),
    _family("small adapter merged", precisions=("f32", "8-bit", "4-bit"), edit=_small_adapter, seeds=3),
    _family("layers mixed, 4 and 8 bits", _mixed, ("4-bit",)),
    _family("embeddings rounded, too", _everything),
    _family("torchao's kernels", _by_a_library, TORCHAO),
    _family("bitsandbytes' kernels", _by_a_library, BITSANDBYTES),
)
