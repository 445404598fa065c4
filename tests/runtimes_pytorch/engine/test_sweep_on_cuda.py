"""The same engine on a GPU."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from patches import alone, patched_rows, units_of, zeros

from circuitcheck.runtimes.pytorch.engine.packing import free_memory
from circuitcheck.runtimes.pytorch.loading.load import hook_module

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and none is present")

TOLERANCES = {
    # TF32 is off by default, so this is float32 summed in another order.
    torch.float32: 1e-5,
    # Two steps of the type for three layers of rounding, doubled for the largest of some hundred results.
    torch.float16: 4 * torch.finfo(torch.float16).eps,
    torch.bfloat16: 4 * torch.finfo(torch.bfloat16).eps,
}


@pytest.mark.parametrize("name", ["gpt_neox", "llama", "opt"])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_replay_equals_full_passes(name: str, dtype: torch.dtype) -> None:
    model = hook_module(tiny_models.tiny_module(name, num_hidden_layers=3).to("cuda", dtype))
    ids, targets = tiny_models.token_ids(5, 9).cuda(), tiny_models.token_ids(2, 5, seed=1).cuda()
    values, sets = zeros(model, 5, 9), [*alone(units_of(model)), units_of(model), ()]
    notes: list[str] = []
    replayed = patched_rows(model, ids, *targets, values, sets, notes=notes)
    full = patched_rows(model, ids, *targets, values, sets, engine="full")
    assert notes == []
    assert (replayed - full).abs().max() <= TOLERANCES[dtype] * full.abs().max()


def test_a_batch_that_does_not_fit_the_gpu_is_halved() -> None:
    model = tiny_models.tiny_model("gpt_neox", num_hidden_layers=3, hidden_size=256, intermediate_size=1024)
    model.module.to("cuda")
    ids, targets = tiny_models.token_ids(64, 60).cuda(), tiny_models.token_ids(2, 64, seed=1).cuda()
    values = [torch.zeros((), device="cuda").expand(64, 60, 4, 64) for _ in model.structure.layers]
    sets = alone(units_of(model))
    expected = patched_rows(model, ids, *targets, values, sets)
    torch.cuda.empty_cache()
    taken = torch.empty(free_memory(model.device) - 64 * 2**20, dtype=torch.uint8, device="cuda")
    found = patched_rows(model, ids, *targets, values, sets, memory=2**33)
    del taken
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
