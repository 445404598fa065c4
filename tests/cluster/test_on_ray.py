"""Parts of patches on Ray's own test cluster of two nodes: the numbers of one process, whatever is lost."""

from __future__ import annotations

import operator
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gate_folder
import numpy as np
import pytest
import tiny_circuits

from circuitcheck import load_model
from circuitcheck.baseline.encoding import encode
from circuitcheck.cluster import pool as module
from circuitcheck.cluster.pool import Pool, require_reachable, require_same
from circuitcheck.cluster.worker import Recipe
from circuitcheck.core.errors import ConfigurationError, ModelError
from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import Task
from circuitcheck.core.runtime import Work
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.core.versions import installed
from circuitcheck.gate.parts import InParts, parts_of
from circuitcheck.gate.record import record_reference
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.threads import computing_threads

pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own, of every kind

STORE = 80_000_000

CALLS = partial(operator.methodcaller, "__call__")
"""What measures cases that are functions."""

# So many that the heads of two layers are not few enough to be one part.
PROMPTS = 120


@dataclass
class Machines:
    """A cluster of a head and a second node, one worker on each.

    Attributes:
        cluster: Ray's.
        second: its second node.
        pool: of workers.
    """

    cluster: Any
    second: Any
    pool: Pool

    def execute(self, recipe: Recipe) -> InParts:
        return InParts(carry=partial(self.pool.carry, recipe), least=1)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster") / "model"
    gate_folder.save_model(gate_folder.random_model(num_hidden_layers=3), folder)
    return folder


@pytest.fixture(scope="module")
def model(directory: Path) -> HookedModel:
    return load_model(directory)


@pytest.fixture(scope="module")
def task(model: HookedModel) -> Task:
    return tiny_circuits.solvable_task(model, PROMPTS)


@pytest.fixture(scope="module")
def recipe(directory: Path) -> Recipe:
    return Recipe("model", partial(load_model, directory), computing_threads)


@pytest.fixture(scope="module")
def machines(one_thread: None) -> Iterator[Machines]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE})
    second = cluster.add_node(num_cpus=1, object_store_memory=STORE)
    pool = Pool(cluster.address, threads=1)
    try:
        pool.start()
        pool.wait_for(2)
        yield Machines(cluster, second, pool)
    finally:
        pool.close()
        cluster.shutdown()


def every_patch(model: HookedModel, task: Task) -> list[Patch]:
    singles = tuple((unit,) for unit in model.layout("head").units)
    values = model.activations(task.prompts(), "head")
    return [Patch("head", singles, values) for values in ("resample", "zero", "mean", values)]


def test_numbers_are_those_of_one_process_and_each_worker_says_what_it_did(machines, model, task, recipe):
    rows: list[int] = []
    for patch in every_patch(model, task):
        found = machines.execute(recipe)(model, task.prompts(), patch, Work(advance=rows.append))
        assert np.array_equal(found, model.patched(task.prompts(), patch))
    assert sum(rows) == 4 * 6 * PROMPTS
    shown = [place.shown() for place in machines.pool.places]
    assert len({place["node"] for place in shown}) == 2
    assert sum(place["rows"] for place in shown) == sum(rows)
    assert all(place["parts"] and place["memory"] > 2**20 and place["seconds"] > 0 for place in shown)


def test_a_recording_on_two_nodes_is_that_of_one_process(machines, model, task, recipe):
    """With a rounding, of which every worker makes its own copy."""
    spec, ways = MeasurementSpec(draws=100), model.roundings()[3:4]
    recorded = [
        encode(record_reference(model, task, spec, roundings=ways, execute=execute))
        for execute in (None, machines.execute(recipe))
    ]
    assert recorded[0] == recorded[1]


def test_another_model_where_a_worker_looks_is_an_error(machines, model, task, recipe, tmp_path):
    patch = every_patch(model, task)[1]
    gone = Recipe("gone", partial(load_model, tmp_path / "gone"), computing_threads)
    with pytest.raises(ModelError, match=r"a worker cannot load gone: .* All machines of a cluster must see it"):
        machines.execute(gone)(model, task.prompts(), patch, Work())
    other = replace(model, fingerprints=model.fingerprints | {"weights": "b" * 64})
    with pytest.raises(ModelError, match="a worker sees another model than this process: weights "):
        machines.execute(replace(recipe, name="model"))(other, task.prompts(), patch, Work())


def test_whole_cases_come_from_whoever_is_free_and_are_named(machines):
    pool = machines.pool
    pool.wait_for(2)
    cases = [partial(operator.pow, 2, number) for number in range(9)]
    assert dict(pool.measure(CALLS, cases)) == {number: 2**number for number in range(9)}
    assert sorted(name for place in pool.places for name in place.shown()["cases"]) == sorted(map(str, cases))


def test_a_case_that_cannot_be_measured_is_an_error_in_its_own_words(machines):
    with pytest.raises(ConfigurationError, match=r"no Ray cluster answers at 127\.0\.0\.1:1 "):
        dict(machines.pool.measure(CALLS, [partial(require_reachable, "127.0.0.1:1")]))


def test_a_case_that_takes_long_is_begun_again_by_who_has_nothing_else_to_do(machines, monkeypatch):
    pool = machines.pool
    pool.wait_for(2)
    monkeypatch.setattr(module, "PATIENT", 1.0)
    stopped, other = (place for place in pool.places if not place.ended)
    arriving = pool.measure(CALLS, [partial(time.sleep, number / 100) for number in range(9)])
    found = [next(arriving)]
    os.kill(int(stopped.process), signal.SIGSTOP)
    try:
        found += arriving
    finally:
        os.kill(int(stopped.process), signal.SIGCONT)
    assert sorted(found) == [(number, None) for number in range(9)]
    assert (stopped.ended, other.ended) == ("slow: another worker had finished its case", "")


def test_a_stalled_worker_is_given_up_and_its_part_done_elsewhere(machines, model, task, recipe, monkeypatch):
    machines.pool.wait_for(2)
    patch = every_patch(model, task)[0]
    execute = machines.execute(recipe)
    whole = execute(model, task.prompts(), patch, Work())
    monkeypatch.setattr(module, "PATIENT", 2.0)
    monkeypatch.setattr(machines.pool, "slowest", 0.1)
    stalled = next(place for place in machines.pool.places if not place.ended)
    os.kill(int(stalled.process), signal.SIGSTOP)
    try:
        assert np.array_equal(execute(model, task.prompts(), patch, Work()), whole)
    finally:
        os.kill(int(stalled.process), signal.SIGCONT)
    assert stalled.ended.startswith("stalled: a part was not done after ")


def test_a_node_that_is_lost_in_the_middle_costs_its_unfinished_parts_alone(machines, model, task, recipe):
    machines.pool.wait_for(2)
    patch, finished = every_patch(model, task)[0], 0
    parts = parts_of(model, task.prompts(), patch, 1)
    whole = model.patched(task.prompts(), patch)
    for number, found in machines.pool.carry(recipe, model, patch, parts, Work()):
        if not finished:
            machines.cluster.remove_node(machines.second, allow_graceful=False)
        finished += 1
        columns = list(parts[number].prompts.index)
        assert np.array_equal(found.metric, whole[np.ix_(parts[number].sets, columns)])
    assert finished == len(parts) == 6
    # What stands on the lost node is known by now, or will be when it is next asked for something.
    again = machines.execute(recipe)(model, task.prompts(), patch, Work())
    assert np.array_equal(again, whole)
    assert any(place.ended for place in machines.pool.places)


def test_versions_that_differ_are_an_error():
    own = installed()
    require_same(own, "auto")
    with pytest.raises(ConfigurationError, match=r"a worker has torch 1\.0, here 2\."):
        require_same(own | {"torch": "1.0"}, "auto")
    with pytest.raises(ConfigurationError, match="a worker has code 000000000000, here "):
        require_same(own | {"code": "0" * 64}, "auto")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999", "nowhere.invalid:6379"])
def test_no_cluster_at_the_address_is_an_error(address):
    with pytest.raises(ConfigurationError, match=rf"no Ray cluster answers at {address} \(.*\)\. Give the address of"):
        require_reachable(address)
