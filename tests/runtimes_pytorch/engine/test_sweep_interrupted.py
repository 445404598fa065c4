"""Whatever ends a sweep, the model is as it was."""

from __future__ import annotations

from dataclasses import replace
from weakref import WeakKeyDictionary

import pytest
import tiny_models
from patches import alone, patched_rows, units_of, zeros
from torch import nn

from circuitcheck.runtimes.pytorch.engine.sweep import Engine
from circuitcheck.runtimes.pytorch.hooked import HookedModel

BATCH, SEQ = 3, 5


def traces(module: nn.Module) -> dict[str, tuple[object, ...]]:
    """All hooks, and everything else that hangs on the instances."""
    return {
        path: (
            *(tuple(hooks) for hooks in (part._forward_hooks, part._forward_pre_hooks)),
            tuple(sorted(vars(part))),
            part.training,
        )
        for path, part in module.named_modules()
    }


def run(model: HookedModel, engine: Engine) -> None:
    ids, targets = tiny_models.token_ids(BATCH, SEQ), tiny_models.token_ids(2, BATCH, seed=1)
    model = replace(model, proven=WeakKeyDictionary())  # so that every sweep begins with its proof
    patched_rows(model, ids, *targets, zeros(model, BATCH, SEQ), alone(units_of(model)), engine=engine)


def calls(model: HookedModel, engine: Engine) -> int:
    """How many times any module is called in a whole sweep."""
    count = 0

    def add(*_: object) -> None:
        nonlocal count
        count += 1

    handles = [part.register_forward_hook(add) for part in model.module.modules()]
    run(model, engine)
    for handle in handles:
        handle.remove()
    return count


@pytest.mark.parametrize("engine", ["replay", "full"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interrupted_sweep_leaves_the_model_clean(engine: Engine, error: type[BaseException]) -> None:
    model = tiny_models.tiny_model("gpt_neox", num_hidden_layers=2)
    total = calls(model, engine)
    remaining = 0

    def interrupt(*_: object) -> None:
        nonlocal remaining
        remaining -= 1
        if remaining == 0:
            raise error

    for part in model.module.modules():
        part.register_forward_pre_hook(interrupt)
    before = traces(model.module)
    # Early, in the clean pass, in the proof, and at many places of the sweep.
    for stop in [*range(1, 60, 3), *range(60, total, max(1, total // 40))]:
        remaining = stop
        with pytest.raises(error):
            run(model, engine)
        assert traces(model.module) == before, f"call {stop} of {total}"


def test_a_forward_that_hung_on_an_instance_before_hangs_there_after() -> None:
    model = tiny_models.tiny_model("gpt_neox", num_hidden_layers=2)
    attention = model.module.get_submodule(model.structure.layers[0].attention)
    original = attention.forward
    attention.forward = lambda *arguments, **keywords: original(*arguments, **keywords)  # type: ignore[method-assign]
    own = attention.forward
    run(model, "replay")
    assert attention.forward is own


def test_a_finished_sweep_leaves_the_model_clean() -> None:
    model = tiny_models.tiny_model("llama", num_hidden_layers=2)
    before = traces(model.module)
    run(model, "replay")
    assert traces(model.module) == before
