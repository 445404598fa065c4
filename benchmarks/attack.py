"""Attacks on the gate, as strangers, accidents and busy machines make them: `python benchmarks/attack.py --json FILE`.

Mutated baselines, model directories, GGUF files and task files may only be refused in circuitcheck's own words, or be
what they were, or show what they hold to a reviewer; none may take more than 10 s or 1 GB. Killed writers and readers
beside writers must never see a baseline lost or mixed, a killed run that is started again
must end as if nothing had been, and a verdict must be the same again under whatever changes
nothing. `--share 0.01` makes a hundredth of all attempts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from attacks.attempts import Tally
from attacks.baselines import attack_baselines
from attacks.models import attack_gguf, attack_models, attack_tasks
from attacks.resumed import attack_resumes
from attacks.storage import attack_accepts, attack_races, attack_saves
from attacks.verdicts import attack_verdicts
from tabulate import tabulate

BASELINES, FILES, KILLS, RESUMES, RERUNS, SECONDS = 100_000, 5_000, 250, 20, 1_000, 60
"""Mutations of baselines, and of each other kind of file; kills of each kind, and of runs that go on; re-runs; seconds
of readers and writers.
"""

ATTACKS: dict[str, Callable[[float, int], list[Tally]]] = {
    "baselines": lambda share, seed: attack_baselines(_times(BASELINES, share), seed),
    "models": lambda share, seed: [attack_models(_times(FILES, share), seed)],
    "gguf": lambda share, seed: [attack_gguf(_times(FILES, share), seed)],
    "tasks": lambda share, seed: [attack_tasks(_times(FILES, share), seed)],
    "saves": lambda share, seed: [attack_saves(_times(KILLS, share), seed)],
    "accepts": lambda share, seed: [attack_accepts(_times(KILLS, share), seed)],
    "resumes": lambda share, seed: [attack_resumes(_times(RESUMES, share), seed)],
    "races": lambda share, _: [attack_races(SECONDS * share)],
    "verdicts": lambda share, seed: [attack_verdicts(_times(RERUNS, share), seed)],
}


def main() -> int:
    """Runs the attacks that are asked for; 0 if none got through."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="*", choices=[*ATTACKS, []], help="all by default")
    parser.add_argument("--share", type=float, default=1.0, help="of the attempts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    tallies: list[Tally] = []
    for name in options.attacks or ATTACKS:
        found = ATTACKS[name](options.share, options.seed)
        tallies += found
        print(shown(found), flush=True)
        if options.json:
            options.json.write_text(json.dumps([vars(tally) for tally in tallies], indent=1))
    return int(any(tally.faults for tally in tallies))


def shown(tallies: list[Tally]) -> str:
    """A table, and what must not have been."""
    rows = [
        [
            tally.kind,
            sum(tally.counts.values()),
            ", ".join(f"{word} {count}" for word, count in sorted(tally.counts.items())),
            f"{tally.slowest:.2f}",
            f"{tally.mebibytes:.0f}",
        ]
        for tally in tallies
    ]
    lines = [tabulate(rows, ["attack", "attempts", "outcomes", "slowest, s", "MiB grown"], tablefmt="simple")]
    for tally in tallies:
        lines += [f"{tally.kind}: {word}:\n{text}" for word, texts in tally.examples.items() for text in texts]
    return "\n".join(lines)


def _times(times: int, share: float) -> int:
    return max(1, round(times * share))


if __name__ == "__main__":
    sys.exit(main())
