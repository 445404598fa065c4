"""One worker and two on a local Ray cluster, of one thread each: `python benchmarks/cluster.py --json FILE`.

A random model of Pythia-70M's shape, every head ablated on 24 prompts. The same parts are dealt to one worker and to
two, in turn, which have loaded the model before the clock starts; that numbers are those of this process is checked.
`cases` measures whole cases instead, those of the embedded model on two tasks, in the same way.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from circuitcheck import load_model
from circuitcheck.cluster.pool import LOCAL, Pool
from circuitcheck.cluster.worker import Recipe
from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.core.runtime import Work
from circuitcheck.gate.parts import InParts, parts_of
from circuitcheck.plugin.cases import cases_of
from circuitcheck.plugin.far_cases import start_measuring
from circuitcheck.plugin.settings import Settings
from circuitcheck.runtimes.pytorch.threads import computing_threads

SHAPE = {
    "hidden_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "vocab_size": 1000,
    "max_position_embeddings": 64,
}
TOKENS, PROMPTS, WORKERS = 16, 24, (1, 2)


def random_task(prompts: int = PROMPTS, tokens: int = TOKENS) -> Task:
    """Random prompts of one length."""
    chance = np.random.default_rng(0)
    pairs = []
    for number in range(prompts):
        clean, other = (tuple(int(token) for token in chance.integers(2, 1000, tokens)) for _ in range(2))
        pairs.append(PromptPair(clean, (*clean[:3], other[3], *clean[4:]), 5, 7, f"cluster {number % 6}"))
    return Task("random", tuple(pairs))


def measured_parts(rounds: int) -> dict[str, object]:
    """Seconds of a sweep by number of workers, each the least of some rounds, and the machine's load meanwhile."""
    with TemporaryDirectory() as folder:
        torch.manual_seed(0)
        GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE)).save_pretrained(folder)
        model, task = load_model(folder), random_task()
        patch = Patch("head", tuple((unit,) for unit in model.layout("head").units), "resample")
        expected = model.patched(task.prompts(), patch)
        recipe, seconds = Recipe("pythia-70m", partial(load_model, folder), computing_threads), {}
        pool = Pool(LOCAL, threads=1, workers=max(WORKERS))
        pool.start()
        pool.wait_for(max(WORKERS))
        try:
            every = pool.places
            for _ in range(rounds + 1):  # in the first of which workers load the model
                for count in WORKERS:
                    pool.places = every[:count]
                    start = time.perf_counter()
                    found = InParts(carry=partial(pool.carry, recipe))(model, task.prompts(), patch, Work())
                    seconds.setdefault(count, []).append(time.perf_counter() - start)
                    assert np.array_equal(found, expected)
        finally:
            pool.places = every
            pool.close()
        best = {count: min(times[1:]) for count, times in seconds.items()}
        return {
            "parts": len(parts_of(model, task.prompts(), patch)),
            "seconds": best,
            "all": seconds,
            "faster": best[1] / best[2],
            "load": os.getloadavg()[0],
            "workers": [place.shown() for place in every],
        }


def measured_cases(rounds: int) -> dict[str, object]:
    """Seconds of whole cases by number of workers, each the least of some rounds, and the machine's load meanwhile."""
    settings = Settings(tasks=("facts", "induction"), baselines=Path(__file__).parents[1] / "baselines")
    cases, start = cases_of(settings), partial(start_measuring, settings, str(Path.cwd()))
    seconds: dict[int, list[float]] = {}
    pool = Pool(LOCAL, threads=1, workers=max(WORKERS))
    pool.start()
    pool.wait_for(max(WORKERS))
    try:
        every = pool.places
        for _ in range(rounds + 1):  # in the first of which workers import
            for count in WORKERS:
                pool.places = every[:count]
                begin = time.perf_counter()
                found = dict(pool.measure(start, cases))
                seconds.setdefault(count, []).append(time.perf_counter() - begin)
                assert len(found) == len(cases)
                assert all(one.entry["criteria"] for one in found.values())
    finally:
        pool.places = every
        pool.close()
    best = {count: min(times[1:]) for count, times in seconds.items()}
    return {
        "cases": len(cases),
        "seconds": best,
        "all": seconds,
        "faster": best[1] / best[2],
        "load": os.getloadavg()[0],
        "workers": [place.shown() for place in every],
    }


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["parts", "cases"], default="parts", help="what is dealt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    found = (measured_cases if options.what == "cases" else measured_parts)(options.rounds)
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
