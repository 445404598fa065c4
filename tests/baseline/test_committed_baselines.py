"""The baselines that this repository ships are of the weights and tasks that it ships."""

from __future__ import annotations

from pathlib import Path

import pytest

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.baseline.encoding import encode
from circuitcheck.baseline.freshness import require_fresh
from circuitcheck.baseline.names import baseline_file
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.runtimes.pytorch.loading.load import load_model
from circuitcheck.tasks.named import BUILT_IN, load_task

FOLDER = Path(__file__).parents[2] / "baselines" / "embedded"
MEGABYTE = 2**20
HEADS = tuple(f"{task}.json" for task in BUILT_IN)
FEATURES = tuple(f"{task}.feature.json" for task in BUILT_IN)
"""Of the embedded dictionary."""


@pytest.fixture(scope="module")
def embedded():
    return load_model("embedded")


@pytest.mark.parametrize("task", BUILT_IN)
def test_baseline_is_fresh_and_canonical(embedded, task):
    file = baseline_file(FOLDER, task)
    baseline = Baseline.load(file)
    require_fresh(
        baseline,
        task=load_task(task, embedded.tokenizer),
        spec=MeasurementSpec(),
        tokenizer=embedded.fingerprints["tokenizer"],
        weights=embedded.fingerprints["weights"],
    )
    assert baseline.architecture == embedded.facts.architecture
    assert baseline.layout == embedded.layout("head")


@pytest.mark.parametrize("name", [*HEADS, *FEATURES])
def test_files_are_canonical(name):
    file = FOLDER / name
    json_bytes, arrays = encode(Baseline.load(file))
    assert json_bytes == file.read_bytes()
    assert [arrays] == [other.read_bytes() for other in FOLDER.glob(f"{file.stem}.{'?' * 16}.safetensors")]


@pytest.mark.parametrize("name", [*HEADS, *FEATURES])
def test_reference_is_competent_and_says_why_it_was_accepted(name):
    baseline = Baseline.load(FOLDER / name)
    assert baseline.incompetence is None
    assert baseline.reason
    assert sorted(baseline.noise_floor) == ["drift", "metric_change", "profile_distance", "ranking_change"]


@pytest.mark.parametrize("task", BUILT_IN)
def test_the_ranking_of_heads_can_tell(task):
    # Below the default limit on ranking agreement no candidate could pass.
    assert Baseline.load(baseline_file(FOLDER, task)).ceiling > 0.8


def test_baselines_are_small_and_nothing_else_lies_beside_them():
    files = sorted(path.name for path in FOLDER.iterdir())
    assert {name for name in files if name.endswith(".json")} == {*HEADS, *FEATURES}
    assert len(files) == 2 * len({*HEADS, *FEATURES})
    of_features = sum(path.stat().st_size for path in FOLDER.glob("*.feature.*"))
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) - of_features <= 10 * MEGABYTE
    assert of_features <= 3 * MEGABYTE
