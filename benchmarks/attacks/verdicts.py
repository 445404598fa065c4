"""The same verdict again, over threads, batch sizes, order, kernels, reloads and a busy core."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from attacks.attempts import Tally
from circuitcheck import (
    Baseline,
    HookedModel,
    MeasurementSpec,
    Task,
    judge,
    load_model,
    load_task,
    measure,
    record_reference,
)
from circuitcheck.runtimes.pytorch.threads import computing_threads
from circuitcheck.runtimes.pytorch.variations import other_attention

CANDIDATES = ("f16", "bf16", "int8-rtn", "int4-rtn", "int2-rtn", "int8-sim", "head switched off")
PROMPTS, SEEDS = 40, 3
"""Prompts of the task, and orders that they are in."""


def attack_verdicts(times: int, seed: int = 0) -> Tally:
    """Re-runs of the embedded model's candidates on `facts`, each under a setting that should change nothing."""
    torch.set_num_threads(1)
    chance, tally = random.Random(seed), Tally("verdicts again")
    reference = load_model("embedded", device="cpu")
    task = load_task("facts", reference.tokenizer, prompts=PROMPTS)
    spec = MeasurementSpec(part=PROMPTS, draws=200)
    usual_order, *orders = _orders(task)
    baselines = [record_reference(reference, usual_order, spec)]
    for other in orders:  # what rounding does is measured once: it does not depend on the order
        again = record_reference(reference, other, spec, roundings=())
        baselines.append(replace(again, roundings=baselines[0].roundings))
    loaded = {name: _load(name) for name in CANDIDATES}
    usual = {name: _words(model, baselines[0]) for name, model in loaded.items()}
    for number in range(times):
        name = CANDIDATES[number % len(CANDIDATES)]
        model = _load(name) if chance.random() < 0.2 else loaded[name]
        if chance.random() < 0.4:
            model = replace(model, batch_size=chance.choice([1, 2, 3, 8, 40]))
        attention = chance.choice(["eager", "eager", "sdpa"])
        with (
            computing_threads(chance.choice([1, 1, 2])),
            other_attention(model, attention),
            _busy(chance.random() < 0.3),
        ):
            found = _words(model, chance.choice(baselines))
        same = found == usual[name]
        tally.note("unchanged" if same else f"flips: {name}", f"{usual[name]} -> {found}, {attention}")
    return tally


def _orders(task: Task) -> Iterator[Task]:
    for seed in range(SEEDS):
        pairs = list(task.pairs)
        if seed:
            random.Random(seed).shuffle(pairs)
        yield Task(task.name, tuple(pairs))


def _load(name: str) -> HookedModel:
    if name != "head switched off":
        return load_model("embedded", name, device="cpu")
    model = load_model("embedded", device="cpu")
    with torch.no_grad():
        site = model.structure.layers[2]
        projection = model.module.get_submodule(f"{site.path}.attention.dense")
        projection.weight[:, :16] = 0
    return model


def _words(model: HookedModel, baseline: Baseline) -> str:
    verdict = judge(measure(model, baseline, curves=False))
    return verdict.word


@contextmanager
def _busy(is_busy: bool) -> Iterator[None]:
    """Another process spins beside this one."""
    child = multiprocessing.get_context("fork").Process(target=_spin, daemon=True) if is_busy else None
    if child is not None:
        child.start()
    try:
        yield
    finally:
        if child is not None:
            child.kill()
            child.join()


def _spin() -> None:
    while True:
        pass
