"""What a recording costs is told from a configuration alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from circuitcheck.core.errors import ModelError
from circuitcheck.core.model_shape import LayerShape, ModelShape
from circuitcheck.plan.__main__ import main
from circuitcheck.plan.cost import Job, costs, sweep, total
from circuitcheck.plan.hardware import SHARE, Hardware
from circuitcheck.runtimes.pytorch.loading.shape import shape_of
from circuitcheck.runtimes.pytorch.roundings import WAYS

LAYER = LayerShape(heads=2, d_head=4, attention_in=30, attention_out=10, mlp=60, stored=110)
TWO = ModelShape("two", (LAYER, LAYER), d_model=8, vocabulary=5, stored=300, is_parallel=True)
MACHINE = Hardware("m", flops=1 / SHARE, bandwidth=1e30, overhead=0, element=0, tokens=64, answers=8)
"""One operation a second; reading and everything else cost nothing."""


def by_hand(width: int, tokens: int, prompts: int) -> float:
    """Operations of a sweep of `TWO`.

    Each of 2 heads, in layer 0: its output projection, 2 x 10 a position; then layer 1, the last: 2 x 30 for queries,
    keys and values, and 4 x tokens x 8 for scores, of every position, and 2 x 70 of the last one. In layer 1 the output
    projection of the last position. One clean pass: 2 x 100 weights and 4 x tokens x 8 a position in both layers, and
    the unembedding, 2 x 5 x 8, once.
    """
    scores = 4 * tokens * 8
    first = 2 * 10 * width + width * (2 * 30 + scores) + 2 * 70
    last = 2 * 10
    clean = 2 * tokens * (2 * 100 + scores) + 2 * 5 * 8
    return prompts * (2 * (first + last) + clean)


@pytest.mark.parametrize(("at", "width"), [("all", 3), ("answer", 1)])
def test_operations_of_a_sweep_are_those_by_hand(at: Any, width: int) -> None:
    found = sweep("sweep", TWO, Job(prompts=5, tokens=3, ablate_at=at), MACHINE, 5)
    assert found.flops == by_hand(width, 3, 5)


def test_as_many_roundings_are_counted_as_there_are() -> None:
    assert Job().roundings == len(WAYS)


def test_a_machine_that_reads_slowly_or_calls_slowly_takes_longer() -> None:
    job = Job(prompts=5, tokens=3)
    fast = total(costs(TWO, job, MACHINE)).seconds
    slow = Hardware("slow", flops=1 / SHARE, bandwidth=1e-3, overhead=0, element=0, tokens=64, answers=8)
    assert total(costs(TWO, job, slow)).seconds > 10 * fast


def test_what_does_not_fit_memory_is_read_from_disk_and_not_rounded() -> None:
    job = Job(prompts=5, tokens=3)
    small = Hardware("small", 1 / SHARE, 1e30, 0, 0, 64, 8, memory=1000, disk=100)
    fitting = {cost.name: cost for cost in costs(TWO, job, MACHINE)}
    found = {cost.name: cost for cost in costs(TWO, job, small)}
    assert set(fitting) - set(found) == {"roundings"}
    # 300 numbers of 4 bytes at 100 bytes a second: once for the clean pass, three times for its proof, and once for
    # each of 4 waves, since 4 x 5 rows of 3 x 8 numbers are 1,920 bytes, of which 500 wait at a time.
    assert found["sweeps"].seconds - fitting["sweeps"].seconds == pytest.approx(3 * 12 * (1 + 3 + 4))


@pytest.mark.parametrize("name", ["gpt_neox", "gpt2", "llama", "mixtral-routed"])
def test_a_shape_is_that_of_the_model(tmp_path: Path, name: str) -> None:
    module = tiny_models.tiny_module(name)
    module.config.save_pretrained(tmp_path)
    shape, model = shape_of(tmp_path), tiny_models.tiny_model(name)
    assert shape.stored == sum(parameter.numel() for parameter in module.parameters())
    assert [(layer.heads, layer.d_head) for layer in shape.layers] == [
        (site.n_heads, site.d_head) for site in model.structure.layers
    ]
    assert (shape.d_model, shape.vocabulary) == (32, tiny_models.VOCABULARY)
    assert shape.is_parallel == (name == "gpt_neox")
    (layer, *_) = shape.layers
    assert layer.attention_out == 32 * 32
    if name == "mixtral-routed":  # 2 of 4 experts, of three matrices each, and the router
        assert layer.mlp == 2 * 3 * 32 * 64 + 4 * 32
    if name == "gpt_neox":
        assert (layer.attention_in, layer.mlp) == (3 * 32 * 32, 2 * 32 * 64)


def test_the_command_says_passes_memory_and_hours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_models.tiny_module("llama").config.save_pretrained(tmp_path)
    assert main([str(tmp_path), "--hardware", "h100", "--prompts", "8", "--ablate-at", "answer"]) == 0
    text = capsys.readouterr().out
    assert "on NVIDIA H100 80 GB: 2 layers, 8 heads" in text
    for word in ("passes", "TFLOP", "hours", "proofs", "sweeps", "roundings", "memory: weights"):
        assert word in text


def test_this_machine_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_models.tiny_module("gpt2").config.save_pretrained(tmp_path)
    assert main([str(tmp_path / "config.json"), "--sweep", "screened"]) == 0
    text = capsys.readouterr().out
    assert "this machine, measured just now" in text
    assert "screening" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "give a directory with config.json"),
        ("[]", "holds no configuration"),
        ("{}", "does not say its model_type"),
        ('{"model_type": "no-such-model"}', "does not make a model"),
        ('{"model_type": "llama", "num_hidden_layers": 999999}', "num_hidden_layers is 999999"),
    ],
)
def test_what_is_no_configuration(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        shape_of(tmp_path)


def test_the_command_names_what_it_cannot_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert main([str(tmp_path / "nothing")]) == 1
    assert main([str(tmp_path), "--hardware", "a100", "--prompts", "0"]) == 1
    assert main([str(tmp_path), "--hardware", "a100", "--flops", "-1"]) == 1
    errors = capsys.readouterr().err
    for words in ("give a directory with config.json", "prompts and tokens must be at least 1", "must be above 0"):
        assert words in errors
