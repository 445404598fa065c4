"""Screened sweeps against exact ones: `python benchmarks/screened.py DIRECTORY --json FILE`.

A Llama of 512 heads, 64 of four numbers in each of eight layers, is trained by the embedded model's recipe, if the
directory does not hold it yet. Both kinds of baseline are recorded of it, and the same candidates are judged by both:
rounded ones, and some with heads switched off. What rounding does is left out of the baselines, so that fixed limits on
drift hold in both. Head-passes are prompts times ablated heads; what screening costs beside them is counted in backward
passes. Which important heads a screened sweep misses is known from the exact one, and is held against the interval that
it states, for as many random samples as are asked for.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from circuitcheck import hook_module, load_model, load_task
from circuitcheck.baseline.baseline import Baseline
from circuitcheck.core.runtime import Work
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.embedded.corpus import END
from circuitcheck.embedded.train import save, train
from circuitcheck.gate.judge import judge
from circuitcheck.gate.measure import measure
from circuitcheck.gate.record import record_reference
from circuitcheck.gate.screen import IMPORTANT_SHARE, SAMPLE_SHARE, STEPS, TOP_SHARE, choose, estimate_importance
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.stats.missed import missed_units
from circuitcheck.verdict.limits import limits_for

LAYERS, HEADS, WIDTH, STREAM, OPTIMIZER_STEPS, SEED = 8, 64, 4, 128, 600, 0
TASKS, PRECISIONS = ("ioi", "facts", "induction"), ("f16", "int8-rtn", "int4-rtn")
LOST = (1, 3)
"""Places, by importance, of the heads that are switched off, each in a candidate of its own; and all up to it."""


def build(tokenizer: Tokenizer) -> LlamaForCausalLM:
    """The untrained model: a stream as wide as the embedded model's, and many small heads."""
    end = tokenizer.token_to_id(END)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=STREAM,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=WIDTH,
        intermediate_size=3 * STREAM,
        max_position_embeddings=256,
        use_cache=False,
        bos_token_id=end,
        eos_token_id=end,
    )
    return LlamaForCausalLM(config)


def candidates(directory: Path, reference: HookedModel, exact: Baseline) -> Iterator[tuple[str, HookedModel]]:
    """Rounded copies, and copies without the most important heads."""
    for precision in PRECISIONS:
        yield precision, load_model(directory, precision)
    effects = np.abs((exact.metric[list(exact.solved)] - exact.ablated[exact.spec.ablation]).mean(1))
    order = [exact.measured[place] for place in np.argsort(-effects)]
    for last in LOST:
        module = copy.deepcopy(reference.module)
        for layer, head in order[:last]:
            module.model.layers[layer].self_attn.o_proj.weight.data[:, head * WIDTH : (head + 1) * WIDTH] = 0
        yield f"{last} most important off", hook_module(module, tokenizer=reference.tokenizer, name=f"{last} off")


def recorded(reference: HookedModel, task: Any, sweep: Any) -> tuple[Baseline, int, float]:
    """A baseline, its rows, and its seconds."""
    rows: list[int] = []
    start = time.perf_counter()
    spec = MeasurementSpec(sweep=sweep)
    baseline = record_reference(reference, task, spec, roundings=(), advance=rows.append)
    return baseline, sum(rows), time.perf_counter() - start


def compared(directory: Path, name: str, samples: int) -> dict[str, Any]:
    """Both kinds of sweep on one task."""
    reference = load_model(directory)
    task = load_task(name, reference.tokenizer, prompts=64)
    exact, exact_rows, exact_seconds = recorded(reference, task, "exact")
    screened, rows, seconds = recorded(reference, task, "screened")
    found: dict[str, Any] = {
        "task": name,
        "solved": len(exact.solved),
        "prompts": len(task.pairs),
        "heads": len(exact.measured),
        "measured": len(screened.measured),
        "fewer when recording": exact_rows / rows,
        "seconds": [exact_seconds, seconds],
        "backward passes a prompt": STEPS + 1,
        "verdicts": [],
    }
    for candidate, model in candidates(directory, reference, exact):
        verdicts, swept = [], []
        for baseline in (exact, screened):
            count: list[int] = []
            measurement = measure(model, baseline, advance=count.append, curves=False)
            swept.append(sum(count))
            verdicts.append(judge(measurement, limits_for(measurement.precision, task.name, {})))
        words = [{one.name: one.verdict for one in verdict.criteria} for verdict in verdicts]
        other = [one for one in words[0] if words[0][one] != words[1].get(one)]
        found["verdicts"].append(
            {
                "candidate": candidate,
                "exact": verdicts[0].word,
                "screened": verdicts[1].word,
                "criteria that differ": {one: [words[0][one], words[1].get(one)] for one in other},
                "rows": swept,
            }
        )
    return found | missed(reference, exact, samples)


def missed(reference: HookedModel, exact: Baseline, samples: int) -> dict[str, Any]:
    """How many important heads screened sweeps miss, as the exact one knows, and how often their interval holds it."""
    prompts = exact.task.prompts(exact.solved)
    importance = np.abs((exact.metric[list(exact.solved)] - exact.ablated[exact.spec.ablation]).mean(1))
    scores = estimate_importance(reference, prompts, exact.spec, Work()).score
    units = exact.measured
    counts, holds, misses, estimated, widths = [], [], [], [], []
    for seed in range(samples):
        top, sample = choose(units, scores, TOP_SHARE, SAMPLE_SHARE, seed)
        is_measured = {*top, *sample}
        threshold = IMPORTANT_SHARE * max(importance[units.index(unit)] for unit in is_measured)
        important = {unit for unit, value in zip(units, importance, strict=True) if value >= threshold}
        truly = len(important - is_measured)
        counts.append(len(important))
        estimate, (low, high) = missed_units(len(important & {*sample}), len(sample), len(units) - len(is_measured))
        holds.append(low <= truly <= high)
        misses.append(truly)
        estimated.append(estimate)
        widths.append(high)
    return {
        "important": float(np.mean(counts)),
        "by their gradient": len(top),
        "important missed": [float(np.mean(misses)), max(misses)],
        "estimated": float(np.mean(estimated)),
        "upper end": float(np.mean(widths)),
        "interval holds": float(np.mean(holds)),
    }


def main() -> None:
    """Trains what is missing, measures, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="of the model")
    parser.add_argument("--samples", type=int, default=200, help="random samples (default: %(default)s)")
    parser.add_argument("--tasks", nargs="*", default=TASKS)
    parser.add_argument("--json", type=Path, help="where all figures go")
    options = parser.parse_args()
    if not options.directory.is_dir():
        save(*train(OPTIMIZER_STEPS, SEED, build), options.directory)
    torch.set_num_threads(1)
    found = []
    for name in options.tasks:
        found.append(compared(options.directory, name, options.samples))
        shown = {key: value for key, value in found[-1].items() if key != "verdicts"}
        print(json.dumps(shown), tabulate(found[-1]["verdicts"], headers="keys"), sep="\n", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
