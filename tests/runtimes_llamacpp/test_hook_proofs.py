"""The callback in llama.cpp, and the proofs that hold it to what it says."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from circuitcheck.core.errors import ModelChangedError, ModelError, SiteError
from circuitcheck.runtimes.llamacpp.binding import require_layout
from circuitcheck.runtimes.llamacpp.eval_hook import Node, Place
from circuitcheck.runtimes.llamacpp.graph_places import block_places, head_places
from circuitcheck.runtimes.llamacpp.row_passes import Passes


@pytest.fixture(scope="module")
def loaded(llama):
    return llama.load(llama.write("F32"))


@pytest.fixture
def model(loaded):
    """As if it had just been loaded."""
    loaded.proven.clear()
    return loaded


@pytest.fixture
def ids(llama):
    return llama.task.prompts().batches()[0].clean[:3]


def context(model, ids):
    """The one at hand, with nothing in the caches of its rows."""
    model.passes.logits(ids)
    found = model.passes._context[0]
    found.decoder.forget()
    return found


def test_a_hooked_run_is_the_one_that_nobody_looks_at(model, ids):
    expected = model.passes.logits(ids)
    logits, values = model.passes.read(ids)
    assert np.array_equal(logits, expected)
    assert [value.shape for value in values] == [(3, 5, 4, 16)] * 2
    everything = [np.ones((3, 4), np.bool_)] * 2
    assert np.array_equal(model.passes.written(ids, everything, values), expected)


def test_an_error_inside_the_callback_is_raised(model, ids):
    """ctypes would only print it."""
    found = context(model, ids)

    def fail(_):
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        found.decoder.run(ids, visits={found.places(ids.shape)[1]: fail})
    found.decoder.forget()
    assert np.isfinite(found.decoder.run(ids)).all()


def test_another_graph_is_noticed(model, ids):
    found = context(model, ids)
    first, second = found.places(ids.shape)
    wrong = Place(first.node, first.name, second.reader)
    with pytest.raises(SiteError, match="is not what its reader reads"):
        found.decoder.run(ids, visits={wrong: lambda _: False})
    found.decoder.forget()
    with pytest.raises(SiteError, match="computed another graph"):
        found.decoder.run(ids, visits={Place(10**6, "nowhere"): lambda _: False})


def test_tensors_that_are_laid_out_otherwise_are_refused(model, ids):
    address = context(model, ids).decoder.trace(ids)[0].address
    binding = model.passes.model.binding
    require_layout(binding, address)
    functions = {name: getattr(binding.ggml, name) for name in ("ggml_nelements", "ggml_op_name", "ggml_op_desc")}
    other = replace(binding, ggml=SimpleNamespace(ggml_get_name=lambda _: b"other", **functions))
    with pytest.raises(ModelError, match=r"lays out its tensors in a way that is not known.*constraints\.txt"):
        require_layout(other, address)


def test_heads_are_found_by_the_weight_that_reads_them():
    """Not by what their nodes are called."""
    nodes = [
        Node(1, "kqv_out-0", "CONT", (), ""),
        Node(2, "something else", "MUL", (1,), "kqv_out-0"),
        Node(3, "attn_out-0", "MUL_MAT", (9, 2), "blk.0.attn_output.weight"),
    ]
    assert head_places(nodes, 1) == [Place(1, "something else", 2)]
    with pytest.raises(SiteError, match=r"layer 1: it has 0 products with blk\.1\.attn_output\.weight"):
        head_places(nodes, 2)
    with pytest.raises(SiteError, match="layer 0: it has 2 products"):
        head_places([*nodes, nodes[2]], 1)


def test_blocks_are_what_is_added_to_another_value():
    """A bias is a weight, whose address is no node's; a norm belongs to what is added."""
    product, bias, residual = 3, 90, 1
    nodes = [
        Node(residual, "embedding", "GET_ROWS", (91, 92), "token_embd.weight"),
        Node(2, "z", "CONT", (residual,), "embedding"),
        Node(product, "attn_out", "MUL_MAT", (93, 2), "blk.0.attn_output.weight"),
        Node(4, "with bias", "ADD", (product, bias), "attn_out"),
        Node(5, "normed", "RMS_NORM", (4,), "with bias"),
        Node(6, "ffn_inp", "ADD", (5, residual), "normed"),
        Node(7, "ffn_out", "MUL_MAT", (94, 6), "blk.0.ffn_down.weight"),
        Node(8, "l_out", "ADD", (6, 7), "ffn_inp"),
    ]
    assert block_places(nodes, 1) == [Place(4, "normed", 5), Place(6, "ffn_out", 7)]
    with pytest.raises(SiteError, match="layer 0: ffn_out is read by 0 others"):
        block_places(nodes[:-1], 1)
    with pytest.raises(SiteError, match="layer 0: normed is read by 2 others"):
        block_places([*nodes[:6], Node(9, "other", "MUL", (5,), "normed"), *nodes[6:]], 1)


def failures(model, prompts) -> str:
    with pytest.raises(SiteError) as refused:
        model.prove(prompts, "head")
    return str(refused.value)


def test_each_proof_fails_where_it_should(llama, model, monkeypatch):
    prompts, written, read = llama.task.prompts(), Passes.written, Passes.read
    model.prove(prompts, "head")
    model.proven.clear()
    monkeypatch.setattr(Passes, "written", lambda *arguments: written(*arguments) + np.float32(0.25))
    assert "layer 1, check 'write back': what was read changes logits by up to 0.25" in failures(model, prompts)
    monkeypatch.setattr(Passes, "written", lambda self, ids, *_: self.logits(ids))
    assert "layer 0, check 'ablation matters'" in failures(model, prompts)
    monkeypatch.setattr(Passes, "written", written)
    monkeypatch.setattr(Passes, "read", lambda self, ids: (read(self, ids)[0] + np.float32(1), read(self, ids)[1]))
    assert "all layers, check 'untouched': reading values changes logits by up to 1" in failures(model, prompts)
    monkeypatch.setattr(Passes, "read", lambda self, ids: (read(self, ids)[0] * np.nan, read(self, ids)[1]))
    assert "logits are NaN or infinite" in failures(model, prompts)
    monkeypatch.setattr(Passes, "read", read)
    products = Passes.read_products
    monkeypatch.setattr(
        Passes, "read_products", lambda self, ids: (products(self, ids)[0], [0 * products(self, ids)[1][0]] * 2)
    )
    assert "layer 0, check 'heads rebuild the output'" in failures(model, prompts)


def test_rows_that_depend_on_each_other_run_alone(llama, model, monkeypatch):
    prompts, logits = llama.task.prompts(), Passes.logits
    assert model.probed(prompts).facts.batch_size is None
    monkeypatch.setattr(Passes, "logits", lambda self, ids: logits(self, ids) + ids.sum())
    alone = model.probed(prompts)
    assert alone.facts.batch_size == 1
    assert alone.facts.notes[-1].startswith("Measured one row at a time, because a prompt's logits depend on the other")
    assert alone.passes.rows_at_once(5) == 1


def test_a_model_that_is_not_what_it_was(model, monkeypatch):
    logits = Passes.logits
    with model.unchanged():
        pass
    with pytest.raises(ModelChangedError, match="gives other logits after it was measured"), model.unchanged():
        monkeypatch.setattr(Passes, "logits", lambda self, ids: logits(self, ids) + np.float32(1))


def test_longer_prompts_get_a_larger_context(model, llama):
    short, long = np.full((2, 3), 7), np.full((2, 300), 7)
    before = model.passes.logits(short)
    assert model.passes.logits(long).shape == (2, 50)
    assert model.passes._context[0].decoder.cells == 512
    assert np.array_equal(model.passes.logits(short), before)
