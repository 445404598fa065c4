"""A short form of `benchmarks/attack.py`: the same mutations, kills and races, and fewer of them."""

from __future__ import annotations

import os
import random
import time
from itertools import cycle

import pytest
from attacks import attempts as module
from attacks.attempts import attempts
from attacks.baselines import attack_baselines
from attacks.models import attack_gguf, attack_models, attack_tasks
from attacks.resumed import attack_resumes
from attacks.storage import attack_races, attack_saves

from circuitcheck.core.errors import ModelError


def assert_nothing_got_through(*tallies):
    for tally in tallies:
        assert not tally.faults, tally.examples
        assert sum(tally.counts.values())


def test_mutated_baselines_are_refused_or_show_what_they_hold():
    tallies = attack_baselines(200)
    assert len(tallies) == 7
    assert sum(sum(tally.counts.values()) for tally in tallies) == 200
    assert_nothing_got_through(*tallies)


@pytest.mark.parametrize("attack", [attack_models, attack_gguf, attack_tasks])
def test_mutated_files_are_refused_or_are_what_they_are(attack):
    tally = attack(20)
    assert sum(tally.counts.values()) == 20
    assert_nothing_got_through(tally)


def test_killed_writers_lose_and_mix_nothing():
    assert_nothing_got_through(attack_saves(8))


def test_killed_runs_go_on_to_the_same_baseline():
    assert_nothing_got_through(attack_resumes(1))


def test_readers_beside_writers_see_nothing_mixed():
    tally = attack_races(2.0, writers=2, readers=2)
    assert_nothing_got_through(tally)
    assert tally.counts["loaded (reads)"] > 0
    assert tally.counts["loaded (writes)"] > 0


# --- what the attacks could not tell, were they blind ----------------------------------------------------------------


def test_whatever_is_raised_slow_large_or_long_is_told_apart(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 1)
    monkeypatch.setattr(module, "MEBIBYTES", 50)
    monkeypatch.setattr(module, "LETTERS", 100)

    kinds = cycle(range(6))
    monkeypatch.setattr(module, "WARM", 0)

    def attempt(_: random.Random) -> str:
        kind = next(kinds)
        if kind == 0:
            raise KeyError("raw")
        if kind == 1:
            raise ModelError("refused")
        if kind == 2:
            raise ModelError("long " * 100)
        if kind == 3:
            time.sleep(10)
        if kind == 4:
            kept.append(bytearray(100 * 2**20))
        return "hidden: it" if kind == 5 else "loaded"

    kept: list[bytearray] = []
    tally = attempts("anything", lambda: attempt, 6)
    assert {"raw KeyError", "refused", "long message", "slow", "large", "hidden: it"} == set(tally.counts)
    assert set(tally.faults) == set(tally.counts) - {"refused"}


@pytest.mark.parametrize("word", ["dies", "hangs"])
def test_a_process_that_ends_or_hangs_is_told(monkeypatch, word):
    monkeypatch.setattr(module, "PATIENCE", 1)
    monkeypatch.setattr(module.signal, "alarm", lambda _: None)

    def attempt(_: random.Random) -> str:
        if word == "dies":
            os._exit(1)
        time.sleep(60)
        return "loaded"

    assert attempts("anything", lambda: attempt, 2).counts == {word: 1}
