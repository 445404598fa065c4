"""What a replay runs, and what it leaves out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import tiny_models
import torch
from patches import alone, patched_rows, units_of, zeros
from torch import Tensor, nn

from circuitcheck.runtimes.pytorch.engine import sweep
from circuitcheck.runtimes.pytorch.engine.clean_pass import record_clean_pass
from circuitcheck.runtimes.pytorch.engine.replay import Replay
from circuitcheck.runtimes.pytorch.engine.replay_proof import prove_replay
from circuitcheck.runtimes.pytorch.engine.row_blocks import Block
from circuitcheck.runtimes.pytorch.engine.wave import Run, run_wave
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.ports.edits import Edits

BATCH, SEQ, LAYERS = 3, 7, 4
QUERIES = {"gpt_neox": "query_key_value", "llama": "q_proj", "gpt2": "c_attn", "opt": "q_proj"}
SETTINGS = {"gpt2": {"n_layer": LAYERS}}


def tiny(name: str, **settings: object) -> HookedModel:
    return tiny_models.tiny_model(name, **SETTINGS.get(name, {"num_hidden_layers": LAYERS}) | settings)


def proven(model: HookedModel) -> Replay:
    with torch.no_grad():
        return prove_replay(model, record_clean_pass(model, tiny_models.token_ids(BATCH, SEQ)))


@contextmanager
def tokens_through(model: HookedModel) -> Iterator[Counter[str]]:
    """Counts, by path, the tokens that every module with weights puts out."""
    counts: Counter[str] = Counter()
    handles = []
    for path, part in model.module.named_modules():
        if hasattr(part, "weight") and not any(True for _ in part.children()):

            def count(_: nn.Module, __: tuple, output: Tensor, path: str = path) -> None:
                counts[path] += output.shape[:-1].numel()

            handles.append(part.register_forward_hook(count))
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def replay_zero(replay: Replay, layer: int, sets: int) -> None:
    model = replay.model
    chosen = [{(layer, head)} for head in range(sets)]
    edits = Edits.of(model.ports("head"), chosen, zeros(model, BATCH, SEQ))
    with torch.no_grad():
        run_wave(replay, [Run(Block(0, BATCH, tuple(range(sets))), [layer] * sets, edits)])


@pytest.mark.parametrize("name", QUERIES)
@pytest.mark.parametrize("layer", range(LAYERS))
def test_no_query_key_or_value_up_to_the_edited_layer(name: str, layer: int) -> None:
    model = tiny(name)
    replay = proven(model)
    with tokens_through(model) as tokens:
        replay_zero(replay, layer, sets=2)
    for site in model.structure.layers:
        expected = 2 * BATCH * SEQ if site.layer > layer else 0
        assert tokens[f"{site.attention}.{QUERIES[name]}"] == expected, site


@pytest.mark.parametrize("name", QUERIES)
def test_nothing_before_the_edited_layer(name: str) -> None:
    model = tiny(name)
    replay = proven(model)
    with tokens_through(model) as tokens:
        replay_zero(replay, 2, sets=2)
    earlier = [f"{site.path}." for site in model.structure.layers[:2]]
    assert not [path for path in tokens if path.startswith(tuple(earlier))]


@pytest.mark.parametrize(("parallel", "sets", "runs"), [(True, 3, 0), (True, 1, 1), (False, 3, 3), (False, 1, 1)])
def test_the_mlp_beside_the_attention_is_not_run_where_rows_start(parallel: bool, sets: int, runs: int) -> None:
    """With one head set, one row may be the one that depends on it, so it is run."""
    model = tiny("gpt_neox", use_parallel_residual=parallel)
    replay = proven(model)
    with tokens_through(model) as tokens:
        replay_zero(replay, 1, sets)
    site, later = model.structure.layers[1:3]
    assert tokens[site.projection] == sets * BATCH * SEQ
    assert tokens[f"{site.mlp}.dense_h_to_4h"] == runs * BATCH * SEQ
    assert tokens[f"{later.mlp}.dense_h_to_4h"] == sets * BATCH * SEQ


@pytest.mark.parametrize("parallel", [True, False])
def test_no_more_of_the_clean_pass_is_kept_than_is_needed(parallel: bool) -> None:
    layers = proven(tiny("gpt_neox", use_parallel_residual=parallel)).clean.layers
    assert [record.mlp is not None for record in layers] == [parallel] * LAYERS


@pytest.mark.parametrize("name", ["gpt_neox", "llama", "gpt2"])
@pytest.mark.parametrize("layer", [1, LAYERS - 1])
def test_only_the_last_position_at_the_end_of_the_last_layer(name: str, layer: int) -> None:
    model = tiny(name)
    replay = proven(model)
    with tokens_through(model) as tokens:
        replay_zero(replay, layer, sets=2)
    last = model.structure.layers[-1]
    assert tokens[last.projection] == 2 * BATCH
    within = {count for path, count in tokens.items() if path.startswith(f"{last.mlp}.")}
    # Beside an attention that is not run, the MLP has nothing to do at all.
    assert within == (set() if name == "gpt_neox" and layer == LAYERS - 1 else {2 * BATCH})


@pytest.mark.parametrize("together", [True, False])
def test_few_rows_join_those_that_started_earlier(together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = tiny("llama"), Counter[str]()
    ids, targets = tiny_models.token_ids(BATCH, SEQ), tiny_models.token_ids(2, BATCH, seed=1)
    sets = [*alone(units_of(model)), units_of(model)]
    full = patched_rows(model, ids, *targets, zeros(model, BATCH, SEQ), sets, engine="full")
    proven(model)
    if not together:
        monkeypatch.setattr(sweep, "few_rows", lambda *_: 0)
    for site in model.structure.layers:
        layer = model.module.get_submodule(site.path)
        layer.register_forward_hook(lambda *_, path=site.path: calls.update([path]))
    found = patched_rows(model, ids, *targets, zeros(model, BATCH, SEQ), sets)
    # Logits of about 10 in float32, summed in another order by other batch shapes.
    torch.testing.assert_close(found, full, rtol=1e-5, atol=2e-5)
    # The clean pass, and rows that start; those under way; and what is behind the layers, which are passed over.
    blocks = 1 if together else LAYERS
    assert list(calls.values()) == [2 + min(layer, blocks) + blocks for layer in range(LAYERS)]


def test_the_unembedding_never_runs() -> None:
    model = tiny("gpt_neox")
    replay = proven(model)
    calls = []
    original = model.module.get_submodule(model.structure.output_layer)
    original.forward = lambda x: calls.append(x) or x  # type: ignore[method-assign]
    replay_zero(replay, 1, sets=2)
    assert calls == []
