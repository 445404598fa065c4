"""A model on which a replay would be wrong runs by full passes, and the report is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import FunctionType, ModuleType
from typing import Any

import micro_model
import pytest
import tiny_models
import torch
from patches import alone, patched_rows, units_of, zeros
from torch import Tensor, nn

from circuitcheck.runtimes.pytorch import shadow
from circuitcheck.runtimes.pytorch.engine import clean_pass, replay
from circuitcheck.runtimes.pytorch.engine.clean_pass import is_refusal
from circuitcheck.runtimes.pytorch.engine.replay_proof import relative_error, rounding
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.load import hook_module
from circuitcheck.runtimes.pytorch.ports import edits

BATCH, SEQ = 5, 6


def around_forward(module: nn.Module, around: Callable[..., Any]) -> None:
    """Changes the class of one instance, so that its forward does something more."""
    kind = type(module)

    class Changed(kind):  # type: ignore[misc, valid-type]
        def forward(self, *arguments: Any, **keywords: Any) -> Any:
            return around(super().forward, *arguments, **keywords)

    module.__class__ = Changed


def something_after_the_projection(model: HookedModel) -> None:
    def scaled(forward: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        output, weights = forward(*arguments, **keywords)
        return output * 1.5, weights

    around_forward(model.module.get_submodule(model.structure.layers[1].attention), scaled)


def attention_weights_that_are_needed(model: HookedModel) -> None:
    def add(forward: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        weights: list[Tensor] = []
        attention = model.module.get_submodule(model.structure.layers[0].attention)
        handle = attention.register_forward_hook(lambda _, __, output: weights.append(output[1].mean()))
        try:
            return forward(*arguments, **keywords) + weights[0]
        finally:
            handle.remove()

    around_forward(model.module.get_submodule(model.structure.layers[0].path), add)


def layers_that_remember(model: HookedModel) -> None:
    """The second layer adds what the first one saw last, whoever's rows those were."""
    seen: list[Tensor] = []

    def remember(forward: Callable[..., Any], hidden: Tensor, **keywords: Any) -> Any:
        seen[:] = [hidden.mean(0, keepdim=True)]
        return forward(hidden, **keywords)

    def recall(forward: Callable[..., Any], hidden: Tensor, **keywords: Any) -> Any:
        return forward(hidden + seen[0], **keywords)

    around_forward(model.module.get_submodule(model.structure.layers[0].path), remember)
    around_forward(model.module.get_submodule(model.structure.layers[1].path), recall)


def one_scale_for_the_whole_batch(model: HookedModel) -> None:
    def rounded(forward: Callable[..., Any], x: Tensor) -> Tensor:
        scale = x.abs().max() / 7
        return forward((x / scale).round() * scale)

    for site in model.structure.layers:
        around_forward(model.module.get_submodule(f"{site.mlp}.dense_h_to_4h"), rounded)


def something_between_the_layers(model: HookedModel) -> None:
    module = model.module.get_submodule(model.structure.layers[1].path)
    module.register_forward_pre_hook(lambda _, arguments: (arguments[0] * 1.1, *arguments[1:]), prepend=True)


def logits_that_must_have_a_vocabulary(model: HookedModel) -> None:
    def check(forward: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        output = forward(*arguments, **keywords)
        if output.logits.shape[-1] != tiny_models.VOCABULARY:
            raise ValueError("no logits")
        return output

    around_forward(model.module, check)


BROKEN = [
    something_after_the_projection,
    attention_weights_that_are_needed,
    layers_that_remember,
    one_scale_for_the_whole_batch,
]


def run(model: HookedModel, engine: str, notes: list[str] | None = None) -> Tensor:
    ids, targets = tiny_models.token_ids(BATCH, SEQ), tiny_models.token_ids(2, BATCH, seed=1)
    sets = [*alone(units_of(model)), units_of(model), ()]
    return patched_rows(model, ids, *targets, zeros(model, BATCH, SEQ), sets, notes=notes, engine=engine)  # type: ignore[arg-type]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_broken_model_runs_by_full_passes_and_says_so(broken: Callable[[HookedModel], None]) -> None:
    model = tiny_models.tiny_model("gpt_neox", num_hidden_layers=3)
    broken(model)
    notes: list[str] = []
    assert torch.equal(run(model, "replay", notes), run(model, "full"))
    assert len(notes) == 1
    assert "gpt_neox: every intervention ran as a full pass" in notes[0]
    assert "layer" in notes[0]


def test_a_model_that_needs_its_unembedding() -> None:
    model = tiny_models.tiny_model("gpt_neox", num_hidden_layers=3)
    logits_that_must_have_a_vocabulary(model)
    notes: list[str] = []
    assert torch.equal(run(model, "replay", notes), run(model, "full"))
    assert "cannot be run without its unembedding (ValueError: no logits)" in notes[0]


def test_the_same_note_is_made_once() -> None:
    model = tiny_models.tiny_model("gpt_neox", num_hidden_layers=3)
    something_after_the_projection(model)
    notes: list[str] = []
    run(model, "replay", notes)
    run(model, "replay", notes)
    assert len(notes) == 1


def test_nobody_has_to_listen() -> None:
    model = tiny_models.tiny_model("gpt_neox", num_hidden_layers=3)
    something_after_the_projection(model)
    assert torch.equal(run(model, "replay"), run(model, "full"))


def test_an_architecture_that_adds_the_residual_inside_its_attention() -> None:
    model = tiny_models.tiny_model("bloom")
    notes: list[str] = []
    assert torch.equal(run(model, "replay", notes), run(model, "full"))
    assert len(notes) == 1


def test_hooks_of_the_model_itself_are_part_of_it() -> None:
    """A hook that changes a layer's input fires again in a replay, on what it changed already: that must be seen."""
    model = tiny_models.tiny_model("gpt_neox", num_hidden_layers=3)
    something_between_the_layers(model)
    notes: list[str] = []
    assert torch.equal(run(model, "replay", notes), run(model, "full"))
    assert len(notes) == 1


def test_a_plain_module_without_a_config() -> None:
    model = micro_model.two_layers()
    ids = torch.tensor([[0, 1, 2], [2, 3, 1]])
    values, sets = zeros(model, 2, 3), [*alone(units_of(model)), units_of(model), ()]
    replayed = patched_rows(model, ids, ids[:, 0], ids[:, 1], values, sets)
    # All of its numbers are small binary fractions, so that there is no rounding.
    assert torch.equal(replayed, patched_rows(model, ids, ids[:, 0], ids[:, 1], values, sets, engine="full"))


def test_an_error_of_the_model_is_an_error() -> None:
    model = hook_module(tiny_models.tiny_module("gpt_neox"))
    with pytest.raises(IndexError):
        patched_rows(model, torch.tensor([[99]]), torch.tensor([0]), torch.tensor([1]), [], [{(0, 0)}])


def test_units_that_a_replay_cannot_replace_though_it_was_proven() -> None:
    """Beside its attention this MLP runs on one row for all sets, and hands its linear maps tokens without prompts."""
    model = tiny_models.tiny_model("gpt_neox", num_hidden_layers=3)
    for site in model.structure.layers:
        mlp = model.module.get_submodule(str(site.mlp))
        around_forward(mlp, lambda forward, x: forward(x.flatten(0, 1)).view(x.shape))
    sites = tuple(replace(site, mlp_output=f"{site.mlp}.dense_4h_to_h") for site in model.structure.layers)
    model = replace(model, structure=replace(model.structure, layers=sites))
    ids, targets = tiny_models.token_ids(BATCH, SEQ), tiny_models.token_ids(2, BATCH, seed=1)
    values, sets = zeros(model, BATCH, SEQ, "block"), [*alone(units_of(model, "block")), ()]
    notes: list[str] = []
    found = patched_rows(model, ids, *targets, values, sets, kind="block", notes=notes)
    assert torch.equal(found, patched_rows(model, ids, *targets, values, sets, kind="block", engine="full"))
    assert len(notes) == 1
    assert "layer 0 cannot be run with these units replaced (RuntimeError: " in notes[0]
    # Heads can be replayed all the same.
    assert torch.allclose(run(model, "replay", heads := []), run(model, "full"), rtol=1e-5, atol=1e-5)
    assert heads == []


# --- whose error it was ---------------------------------------------------------------------------------------------


def of_ours(kind: type[Exception], module: ModuleType) -> Callable[..., Any]:
    """A function that raises, as if it stood in a module of the package."""

    def broken(*_: Any, **__: Any) -> Any:
        raise ERROR("a fault of our own")  # type: ignore[name-defined] # noqa: F821

    return FunctionType(broken.__code__, {**vars(module), "ERROR": kind})


OURS = {
    "edit": (edits.Edits, "apply", edits),
    "enter": (replay.Replay, "enter", replay),
    "layer": (replay.Replay, "layer", replay),
    "finish": (replay.Replay, "finish", replay),
    "call": (clean_pass.LayerRecord, "call", clean_pass),
    "hook in the clean pass": (clean_pass, "_condensed", clean_pass),
    "answer of an MLP": (replay, "answering", shadow),
}


@pytest.mark.parametrize("kind", clean_pass.REFUSALS)
@pytest.mark.parametrize("name", OURS)
def test_an_error_of_ours_is_an_error(name: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken for a model that cannot be replayed, which would run slowly and say so in a note."""
    model = tiny_models.tiny_model("gpt_neox", num_hidden_layers=3)
    holder, attribute, module = OURS[name]
    monkeypatch.setattr(holder, attribute, of_ours(kind, module))
    notes: list[str] = []
    with pytest.raises(kind, match="a fault of our own"):
        run(model, "replay", notes)
    assert notes == []


def test_an_operation_that_ours_calls_wrongly_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error itself comes out of PyTorch, which has no frame of its own there."""
    model = tiny_models.tiny_model("gpt_neox", num_hidden_layers=3)
    monkeypatch.setattr(edits.Edits, "of", classmethod(lambda kind, ports, *_: kind(ports, {0: None}, {})))
    notes: list[str] = []
    with pytest.raises((TypeError, LookupError)):
        run(model, "replay", notes)
    assert notes == []


@pytest.mark.parametrize("kind", clean_pass.REFUSALS)
def test_an_error_of_the_models_own_code_is_a_reason_for_full_passes(kind: type[Exception]) -> None:
    def only_whole_batches(forward: Callable[..., Any], hidden: Tensor, **keywords: Any) -> Any:
        if hidden.shape[:2] != (BATCH, SEQ):
            raise kind("not the batch that I know")
        return forward(hidden, **keywords)

    model = tiny_models.tiny_model("gpt_neox", num_hidden_layers=3)
    ids, targets = tiny_models.token_ids(BATCH, SEQ), tiny_models.token_ids(2, BATCH, seed=1)
    values, sets = zeros(model, BATCH, SEQ), alone(units_of(model))
    expected = patched_rows(model, ids, *targets, values, sets, engine="full")
    around_forward(model.module.get_submodule(model.structure.layers[1].path), only_whole_batches)
    notes: list[str] = []
    found = patched_rows(model, ids, *targets, values, sets, notes=notes)
    assert torch.equal(found, expected)
    assert len(notes) == 1
    assert f"cannot be run alone ({kind.__name__}: " in notes[0]
    assert "not the batch that I know" in notes[0]


def test_whose_error_it_was() -> None:
    def error_of(function: Callable[[], Any]) -> BaseException:
        with pytest.raises(Exception) as raised:
            function()
        return raised.value

    linear = nn.Linear(2, 2)
    assert is_refusal(error_of(lambda: linear(torch.zeros(3))))
    assert is_refusal(error_of(of_ours(RuntimeError, nn.modules.linear)))
    assert not is_refusal(error_of(of_ours(RuntimeError, edits)))
    assert not is_refusal(error_of(of_ours(ZeroDivisionError, nn.modules.linear)))
    assert not is_refusal(error_of(of_ours(torch.OutOfMemoryError, nn.modules.linear)))
    assert not is_refusal(RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 2 bytes"))


def test_one_huge_entry_of_the_residual_stream_excuses_no_error_elsewhere() -> None:
    given = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0))
    given[..., 0] = 1e4
    added = torch.ones_like(given)
    wrong = added * 1.1
    assert relative_error(given + wrong, given + added, given) > 100 * rounding(torch.float32)


def test_what_is_not_finite_agrees_with_nothing() -> None:
    value = torch.full((1, 2, 3), float("nan"))
    assert relative_error(value, value, torch.zeros_like(value)) == float("inf")
