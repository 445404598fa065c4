"""Rows go on behind keys and values of the positions that no patch changes, where that is the same computation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_graphs
import onnx_releases
import pytest
import tiny_circuits
import tiny_models

from circuitcheck.core.metric import Metric
from circuitcheck.core.patch import Patch
from circuitcheck.core.runtime import Work
from circuitcheck.runtimes.onnx.earlier_positions import ANY
from circuitcheck.runtimes.onnx.from_onnx import load_onnx
from circuitcheck.runtimes.onnx.runner import Runner
from circuitcheck.runtimes.pytorch.loading.load import hook_module

# Logits of up to 20, in float32, summed in another order.
CLOSE = 5e-5


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A task, and files with a past of one model that solves it: as a builder, and as an exporter writes them."""
    module = tiny_models.tiny_module("llama-wide-heads")
    task = tiny_circuits.solvable_task(hook_module(module, name="tiny"), 6)
    folder = tmp_path_factory.mktemp("past")
    files = {
        "built": onnx_graphs.llama_with_past(module, folder / "built.onnx"),
        "exported": onnx_releases.export_with_past(module, folder / "exported.onnx"),
    }
    files["rounded"] = onnx_releases.quantize(files["exported"], folder / "rounded.onnx", "int4-blocks")
    return task, files


@pytest.fixture
def counted(monkeypatch):
    """Tokens of every pass of a cut graph."""
    tokens = []
    run = Runner.run

    def counting(self, rows, names):
        tokens.append(rows.ids.size)
        return run(self, rows, names)

    monkeypatch.setattr(Runner, "run", counting)
    return tokens


@pytest.mark.parametrize(
    ("form", "values", "positions"),
    [
        ("built", "zero", "answer"),
        ("built", "mean", "answer"),
        ("exported", "resample", "answer"),
        ("exported", "resample", "all"),
        ("rounded", "resample", "all"),
    ],
)
def test_rows_go_on_and_say_the_same(world, counted, form, values, positions):
    """The fused attention takes one position behind a past, a written one any number."""
    task, files = world
    prompts = task.prompts()
    model = load_onnx(files[form]).probed(prompts)
    assert model.behind == (1 if form == "built" else ANY)
    patch = Patch("head", tuple((unit,) for unit in model.layout("head").units), values, positions)
    counted.clear()
    found = model.patched(prompts, patch)
    ours = sum(counted)
    counted.clear()
    expected = replace(model, behind=0).patched(prompts, patch)
    whole = sum(counted)
    np.testing.assert_allclose(found, expected, atol=CLOSE, rtol=0)
    assert np.abs(expected - model.metric(prompts)).max() > 100 * CLOSE
    kept = 1 if positions == "answer" else task.longest
    batches = prompts.batches()
    before = sum(int(patch.starts(batch, min(kept, batch.clean.shape[1])).sum()) for batch in batches)
    tokens, sets = sum(batch.clean.size for batch in batches), len(patch.sets)
    # Beside the sets, the start of each prompt runs once, its end once behind that, and all of it once.
    assert before > 0
    assert ours == whole - sets * tokens + before + (sets + 1) * (tokens - before) + tokens


def test_a_budget_counts_what_goes_before(world):
    """Few rows at once, and the same numbers."""
    task, files = world
    prompts = task.prompts()
    model = load_onnx(files["built"]).probed(prompts)
    patch = Patch("head", tuple((unit,) for unit in model.layout("head").units), "zero", "answer")
    few = model.patched(prompts, patch, Work(model.runner.row_bytes(task.longest)))
    np.testing.assert_allclose(few, model.patched(prompts, patch), atol=CLOSE, rtol=0)
    state = model.runner.states(np.zeros((1, 3), np.int64), "head")
    assert sum(value.nbytes for value in state.values()) == 3 * model.runner.network.inputs.past_bytes


def test_a_past_that_is_another_computation_is_not_gone_on_behind(world, tmp_path):
    """Keys where values belong, a state that is not given back, and a scale of all positions' activations."""
    task, files = world
    prompts = task.prompts()
    crossed = onnx.load(files["built"])
    for node in crossed.graph.node:
        if node.op_type == "GroupQueryAttention":
            node.output[1], node.output[2] = node.output[2], node.output[1]
    onnx.save(crossed, tmp_path / "crossed.onnx")
    lonely = onnx.load(files["exported"])
    del lonely.graph.output[-1]
    onnx.save(lonely, tmp_path / "lonely.onnx")
    onnx_releases.quantize(files["exported"], tmp_path / "dynamic.onnx", "dynamic")
    for name in ("crossed", "lonely", "dynamic"):
        assert load_onnx(tmp_path / f"{name}.onnx").probed(prompts).behind == 0


def test_a_function_of_the_whole_output_gets_all_positions(world):
    task, files = world

    def at_the_end(output, ids, answer, foil):
        assert output.logits.shape[:2] == ids.shape
        return output.logits[:, -1, 5]

    model = load_onnx(files["exported"]).probed(task.prompts()).measured_by(Metric("mine", at_the_end))
    found = model.patched(task.prompts(), Patch("head", (((0, 0),),), "zero", "answer"))
    assert np.isfinite(found).all()
