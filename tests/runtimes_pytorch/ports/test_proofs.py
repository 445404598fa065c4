"""Each proof of the hooks, with a model that is built to break exactly it."""

from __future__ import annotations

import re

import micro_model
import patches
import pytest
import tiny_models
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from circuitcheck.core.errors import SiteError
from circuitcheck.runtimes.pytorch.loading.load import hook_module
from circuitcheck.runtimes.pytorch.ports.proofs import prove
from circuitcheck.runtimes.pytorch.ports.structure import LayerSite, Structure

IDS = torch.tensor([[2, 0], [1, 3]])
IS_COMPUTED = "z is what attention computed"


def failures(model, ids=IDS) -> list[tuple[str, str, str]]:
    """(where, module, check) of every line that the refusal lists."""
    with pytest.raises(SiteError) as refused:
        prove(model, ids)
    head, *lines = str(refused.value).splitlines()
    assert f"{model.name}: the hooks fail {len(lines)} proof(s)" in head
    parts = [re.fullmatch(r"  (layer \d+|output layer), module (\S+), check '([^']+)': .+", line) for line in lines]
    return [part.groups() for part in parts]


def detail(model, ids=IDS) -> str:
    with pytest.raises(SiteError) as refused:
        prove(model, ids)
    return str(refused.value)


def two_layers_with(layer: int, attention: type[nn.Module]):
    module = micro_model.MicroModel(micro_model.FIRST_LAYER, micro_model.SECOND_LAYER)
    weights = (micro_model.FIRST_LAYER, micro_model.SECOND_LAYER)[layer]
    module.layers[layer].attention = attention(*weights)
    return micro_model.hook_micro(module, 2, name="broken")


def readable(layer: int) -> tuple[str, str, str]:
    return f"layer {layer}", f"layers.{layer}.attention.project", "z is readable"


# --- before the four: z can be read at all -------------------------------------------------------------------------


class ProjectsTwice(micro_model.MicroAttention):
    def forward(self, residual):
        return (super().forward(residual) + super().forward(residual)) / 2


class NeverProjects(micro_model.MicroAttention):
    """Uses the projection's weights without calling it, as a fused kernel would."""

    def forward(self, residual):
        heads = torch.cat([residual, residual], dim=-1)
        return nn.functional.linear(heads, self.project.weight, self.project.bias)


class ProjectsAllTokensBehindOneAnother(micro_model.MicroAttention):
    def forward(self, residual):
        heads = torch.cat([residual, residual], dim=-1)
        return self.project(heads.flatten(0, 1)).unflatten(0, residual.shape[:2])


class ProjectsAllTokens(micro_model.MicroAttention):
    """The same with prompts apart."""

    def forward(self, residual):
        return self.project(torch.cat([residual, residual], dim=-1))


class ProjectsByKeyword(micro_model.MicroAttention):
    def forward(self, residual):
        return self.project(input=torch.cat([residual, residual], dim=-1))


@pytest.mark.parametrize(
    ("attention", "reason"),
    [
        (ProjectsTwice, "it ran 2 times in one forward pass instead of once"),
        (NeverProjects, "it ran 0 times in one forward pass instead of once"),
        (ProjectsByKeyword, "its first argument is not [batch, seq, 4]"),
    ],
)
def test_a_projection_whose_input_cannot_be_read_is_refused(attention, reason):
    model = two_layers_with(1, attention)
    assert failures(model) == [readable(1)]
    assert reason in detail(model)


@pytest.mark.parametrize("layer", [0, 1])
def test_a_projection_of_all_tokens_behind_one_another_is_read_and_patched(layer):
    """Its tensors have no positions, but as many rows; only what a replay records of them would be of no prompt."""
    model = two_layers_with(layer, ProjectsAllTokensBehindOneAnother)
    same = two_layers_with(layer, ProjectsAllTokens)
    prove(model, IDS)
    assert all(map(torch.equal, patches.read(model, IDS), patches.read(same, IDS)))
    values, sets = patches.read(same, IDS.flip(0)), [*patches.alone(patches.units_of(model)), patches.units_of(model)]
    notes: list[str] = []
    found = patches.patched_rows(model, IDS, IDS[:, 0], IDS[:, 1], values, sets, notes=notes)
    assert torch.equal(found, patches.patched_rows(same, IDS, IDS[:, 0], IDS[:, 1], values, sets, engine="full"))
    assert len(found.unique()) > 2, "the patches are to matter"
    assert len(notes) == 1
    assert f"layer {layer} hands its output projection no [batch, seq, ...]" in notes[0]


def test_a_structure_that_names_no_module_is_refused_with_every_such_name():
    sites = tuple(
        LayerSite(layer, f"layers.{layer}", "attention", f"layers.{layer}.typing_error", None, 2, 2) for layer in (0, 1)
    )
    module = micro_model.MicroModel(micro_model.FIRST_LAYER, micro_model.SECOND_LAYER)
    model = hook_module(module, Structure(sites, None, None, "head"), name="misnamed")
    assert failures(model) == [
        ("layer 0", "layers.0.typing_error", "z is readable"),
        ("layer 1", "layers.1.typing_error", "z is readable"),
        ("output layer", "head", "readout"),
    ]
    assert detail(model).count("there is no such module") == 3


class UnembedsWithoutTheModule(micro_model.MicroModel):
    def forward(self, ids):
        residual = self.embed(ids)
        for layer in self.layers:
            residual = layer(residual)
        return nn.functional.linear(residual, self.unembed.weight, self.unembed.bias)


def test_an_unembedding_that_does_not_run_is_refused():
    model = micro_model.hook_micro(UnembedsWithoutTheModule(micro_model.FIRST_LAYER))
    assert failures(model) == [("output layer", "unembed", "readout")]
    assert "not called with the final hidden state" in detail(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_named_as_such(value):
    """Not as a failed write-back: NaN does not even equal itself."""
    model = micro_model.one_layer()
    model.module.unembed.bias.data[3] = value
    assert failures(model) == [("output layer", "unembed", "readout")]
    assert "logits are NaN or infinite" in detail(model)


# --- 1. writing back the z that was read leaves the logits bit-identical --------------------------------------------


class CountsItsPasses(micro_model.MicroModel):
    """Stateful: each pass adds the smallest possible number to the logits."""

    passes = 0

    def forward(self, ids):
        self.passes += 1
        return super().forward(ids) * (1 + self.passes * torch.finfo(torch.float32).eps)


def test_a_model_whose_passes_differ_is_refused():
    model = micro_model.hook_micro(CountsItsPasses(micro_model.FIRST_LAYER, micro_model.SECOND_LAYER), 2)
    found = failures(model)
    for layer in (0, 1):
        assert (f"layer {layer}", f"layers.{layer}.attention.project", "write back") in found
    # A few units in the last place: within what the other checks, that know of rounding, let pass.
    assert {check for _, _, check in found} == {"write back"}


class KnowsItsBuffer(nn.Linear):
    """Adds 1 to what comes from other storage than its layer's own, as a kernel with a packed copy of z might."""

    buffer: torch.Tensor

    def forward(self, heads):
        return super().forward(heads) + (0 if heads.data_ptr() == self.buffer.data_ptr() else 1)


class FillsTheBuffer(micro_model.MicroAttention):
    def __init__(self, weight, bias):
        super().__init__(weight, bias)
        own = KnowsItsBuffer(4, 2)
        own.load_state_dict(self.project.state_dict())
        self.project = own

    def forward(self, residual):
        self.project.buffer = torch.cat([residual, residual.cumsum(1)], dim=-1)
        return self.project(self.project.buffer)


@pytest.mark.parametrize("layer", [0, 1])
def test_a_projection_that_treats_a_written_z_otherwise_is_refused_where_it_is(layer):
    model, where = two_layers_with(layer, FillsTheBuffer), f"layers.{layer}.attention.project"
    # A copy of z is not what attention computed, either, where storage matters.
    assert failures(model) == [(f"layer {layer}", where, check) for check in ("write back", IS_COMPUTED)]


class TakesTheStreamAway(micro_model.MicroAttention):
    """Behind it the stream is what its own heads write, and nothing of what came before."""

    def forward(self, residual):
        return super().forward(residual) - residual


def test_a_write_whose_harm_a_later_write_would_undo_is_refused():
    """As nothing but the second layer's heads reaches the logits, and these are written back, too."""
    module = micro_model.MicroModel(micro_model.FIRST_LAYER, micro_model.SECOND_LAYER)
    module.layers[0].attention = FillsTheBuffer(*micro_model.FIRST_LAYER)
    module.layers[1].attention = TakesTheStreamAway(*micro_model.SECOND_LAYER)
    model = micro_model.hook_micro(module, 2)
    found = failures(model)
    assert ("layer 0", "layers.0.attention.project", "write back") in found
    assert ("layer 1", "layers.1.attention.project", "write back") not in found


# --- 2. ablating a layer's heads changes the logits ------------------------------------------------------------------


class NoticesOtherRows(micro_model.MicroModel):
    """As a kernel does whose scale is of the whole batch."""

    def forward(self, ids):
        logits = super().forward(ids)
        return logits * (1 + logits.abs().mean())


@pytest.mark.parametrize("layer", [0, 1])
def test_heads_that_do_not_matter_are_refused_where_rows_notice_each_other(layer):
    """Proven together, the other layer's zeros would change the logits of this one's rows."""
    module = NoticesOtherRows(micro_model.FIRST_LAYER, micro_model.SECOND_LAYER)
    module.layers[layer].attention = DoesNotMatter(*(micro_model.FIRST_LAYER, micro_model.SECOND_LAYER)[layer])
    found = failures(micro_model.hook_micro(module, 2))
    assert (f"layer {layer}", f"layers.{layer}.attention.project", "ablation matters") in found
    assert (f"layer {1 - layer}", f"layers.{1 - layer}.attention.project", "ablation matters") not in found


class DoesNotMatter(micro_model.MicroAttention):
    def forward(self, residual):
        return super().forward(residual) * 0


@pytest.mark.parametrize("layer", [0, 1])
def test_heads_that_do_not_matter_are_refused(layer):
    model = two_layers_with(layer, DoesNotMatter)
    assert failures(model) == [(f"layer {layer}", f"layers.{layer}.attention.project", "ablation matters")]


# --- 3. the heads' contributions add up to the projection's output --------------------------------------------------


class AddsToItsMatrix(nn.Linear):
    """A Linear whose forward is not its matrix, as with an adapter that is not merged."""

    def forward(self, heads):
        return super().forward(heads) + 0.01 * heads[..., :2]


def test_a_linear_map_that_is_not_its_matrix_is_refused():
    module = micro_model.MicroModel(micro_model.FIRST_LAYER, micro_model.SECOND_LAYER)
    own = AddsToItsMatrix(4, 2)
    own.load_state_dict(module.layers[0].attention.project.state_dict())
    module.layers[0].attention.project = own
    model = micro_model.hook_micro(module, 2)
    assert failures(model) == [("layer 0", "layers.0.attention.project", "heads rebuild the output")]


class AddsToItsTransposedMatrix(Conv1D):
    """The same with GPT-2's kind of linear map."""

    def forward(self, heads):
        return super().forward(heads) + 0.1 * heads


def test_a_transposed_linear_map_that_is_not_its_matrix_is_refused():
    module = tiny_models.tiny_module("gpt2")
    own = AddsToItsTransposedMatrix(32, 32)
    own.load_state_dict(module.transformer.h[1].attn.c_proj.state_dict())
    module.transformer.h[1].attn.c_proj = own
    assert failures(hook_module(module), tiny_models.token_ids(2, 7)) == [
        ("layer 1", "transformer.h.1.attn.c_proj", "heads rebuild the output")
    ]


def test_a_bias_belongs_to_the_sum():
    """Were it left out of the sum, a projection with a bias would be refused."""
    model = micro_model.one_layer()
    model.module.layers[0].attention.project.bias.data.fill_(100.0)
    prove(model, IDS)


class NotALinearMap(nn.Module):
    """Neither `Linear` nor `Conv1D`: there is no matrix to hold its output against, so check 3 has nothing to say."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, heads):
        return self.linear(heads).round()


def test_another_kind_of_projection_is_not_rebuilt():
    module = micro_model.MicroModel(micro_model.FIRST_LAYER)
    module.layers[0].attention.project = NotALinearMap(module.layers[0].attention.project)
    prove(micro_model.hook_micro(module), IDS)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama-wide-heads"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_of_half_precision_is_no_failure(name, dtype):
    module = tiny_models.tiny_module(name).to(dtype)
    prove(hook_module(module), tiny_models.token_ids(2, 7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("share", [0.9, 1.1])
def test_a_tenth_is_more_than_rounding_in_every_type(dtype, share):
    """bfloat16 keeps eight bits: its results are off by at most 1/256 of the largest."""

    class Scales(nn.Linear):
        def forward(self, values):
            return super().forward(values) * share

    module = tiny_models.tiny_module("llama")
    for parent, name, width in ((module.model.layers[1].self_attn, "o_proj", 32), (module, "lm_head", 50)):
        own = Scales(32, width, bias=False)
        own.load_state_dict(getattr(parent, name).state_dict())
        setattr(parent, name, own)
    assert failures(hook_module(module.to(dtype)), tiny_models.token_ids(2, 7)) == [
        ("layer 1", "model.layers.1.self_attn.o_proj", "heads rebuild the output"),
        ("output layer", "lm_head", "readout"),
    ]


class GivesFloat32(micro_model.MicroModel):
    """Some models turn their half-precision logits into float32, which makes them no more exact."""

    def forward(self, ids):
        return super().forward(ids).float()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_that_were_rounded_before_they_became_float32_are_no_failure(dtype):
    module = GivesFloat32(micro_model.FIRST_LAYER)
    module.unembed.weight.data += 0.01  # no longer exact in half precision
    prove(micro_model.hook_micro(module.to(dtype)), IDS)


# --- 4. what is read is what attention computed ---------------------------------------------------------------------


class TurnsInFront(micro_model.MicroAttention):
    """Puts a transform of its own in front of every hook in each pass, as a release that is prepared lazily might."""

    handle = None

    def forward(self, residual):
        if self.handle is not None:
            self.handle.remove()
        self.handle = self.project.register_forward_pre_hook(lambda _, given: (given[0].roll(1, -1),), prepend=True)
        return super().forward(residual)


@pytest.mark.parametrize("layer", [0, 1])
def test_a_hook_of_ours_behind_a_transform_is_found(layer):
    """Behind it heads are mixed, and writing back and ablating what was read there work all the same."""
    model = two_layers_with(layer, TurnsInFront)
    assert failures(model) == [(f"layer {layer}", f"layers.{layer}.attention.project", IS_COMPUTED)]
    assert "its output cannot be rebuilt from what was read" in detail(model)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_hook_of_ours_in_front_of_a_transform_is_not(is_first):
    model = two_layers_with(1, micro_model.MicroAttention)
    project = model.module.layers[1].attention.project
    project.register_forward_pre_hook(lambda _, given: (given[0].roll(1, -1),), prepend=is_first)
    prove(model, IDS)
    assert torch.equal(
        patches.read(model, IDS)[1], patches.read(two_layers_with(1, micro_model.MicroAttention), IDS)[1]
    )


# --- the readout -----------------------------------------------------------------------------------------------------


class ScalesItsLogits(micro_model.MicroModel):
    def forward(self, ids):
        return 0.5 * super().forward(ids)


class CapsItsLogits(micro_model.MicroModel):
    def forward(self, ids):
        return torch.tanh(super().forward(ids))


class BendsItsLogits(micro_model.MicroModel):
    """The largest and the smallest logit stay what they are, and what lies between is moved."""

    def forward(self, ids):
        logits = super().forward(ids)
        low, high = logits.amin(-1, keepdim=True), logits.amax(-1, keepdim=True)
        return low + (logits - low) ** 2 / (high - low)


@pytest.mark.parametrize("kind", [ScalesItsLogits, CapsItsLogits, BendsItsLogits])
def test_logits_that_are_scaled_or_capped_after_the_unembedding_are_refused(kind):
    model = micro_model.hook_micro(kind(micro_model.FIRST_LAYER))
    assert failures(model) == [("output layer", "unembed", "readout")]


@pytest.mark.parametrize(
    ("name", "setting"),
    [("gemma2", "final_logit_softcapping"), ("cohere", "logit_scale"), ("granite", "logits_scaling")],
)
def test_a_transform_that_is_not_the_one_that_the_config_names_is_refused(name, setting):
    """The proof holds the named transform against what the model does, and does not take the config's word for it."""
    model = tiny_models.tiny_model(name)
    ids = tiny_models.token_ids(2, 7)
    prove(model, ids)
    own = type(model.module).forward

    class Unchanged(type(model.module)):
        def forward(self, *arguments, **keywords):
            value = getattr(self.config, setting)
            setattr(self.config, setting, 2 * value)
            try:
                self.logit_scale = self.config.logit_scale if setting == "logit_scale" else None
                return own(self, *arguments, **keywords)
            finally:
                setattr(self.config, setting, value)

    model.module.__class__ = Unchanged
    assert failures(model, ids) == [("output layer", "lm_head", "readout")]
    assert "scales or caps its logits in a way that is not known" in detail(model, ids)


@pytest.mark.parametrize("large", [1.0, 1e2, 1e4])
def test_sums_whose_terms_cancel_are_as_uncertain_as_their_terms(large):
    """Two large weights of opposite sign on two numbers that are the same: what remains is rounded as they are."""
    model = tiny_models.tiny_model("llama")
    module = model.module
    with torch.no_grad():
        module.model.embed_tokens.weight[:, 0] = module.model.embed_tokens.weight[:, 1]
        for layer in module.model.layers:
            for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
                projection.weight[0] = projection.weight[1]
            layer.self_attn.o_proj.weight[2:, :2] = large * torch.tensor([1.0, -1.0])
            layer.self_attn.v_proj.weight[0] = layer.self_attn.v_proj.weight[1]
        module.model.norm.weight[:2] = 1
        module.lm_head.weight[:, :2] = large * torch.tensor([1.0, -1.0])
    prove(model, tiny_models.token_ids(2, 7))


def test_a_scaling_is_found_beside_terms_that_cancel():
    model = tiny_models.tiny_model("cohere")
    with torch.no_grad():
        model.module.lm_head.weight[:, :2] = 10 * torch.tensor([1.0, -1.0])
    prove(model, tiny_models.token_ids(2, 7))
    model.module.logit_scale *= 1.01
    assert failures(model, tiny_models.token_ids(2, 7)) == [("output layer", "lm_head", "readout")]


def test_a_projection_that_is_cut_into_parts_by_hand_is_refused():
    """BLOOM can multiply slices of the weight, as tensor-parallel training did, and then never calls the module."""
    model = tiny_models.tiny_model("bloom", pretraining_tp=2, slow_but_exact=True)
    assert failures(model, tiny_models.token_ids(2, 7)) == [
        (f"layer {layer}", f"transformer.h.{layer}.self_attention.dense", "z is readable") for layer in range(2)
    ]
    assert "it ran 0 times in one forward pass instead of once" in detail(model, tiny_models.token_ids(2, 7))


def test_sinks_that_take_all_of_the_attention_leave_nothing_to_measure():
    model = tiny_models.tiny_model("gpt_oss")
    model.module.model.layers[1].self_attn.sinks.data.fill_(1e4)
    assert failures(model, tiny_models.token_ids(2, 7)) == [
        ("layer 1", "model.layers.1.self_attn.o_proj", "ablation matters")
    ]


# --- all at once -----------------------------------------------------------------------------------------------------


def test_all_failures_are_reported_at_once():
    """One broken thing in each of two layers and behind the unembedding."""
    module = ScalesItsLogits(micro_model.FIRST_LAYER, micro_model.SECOND_LAYER, micro_model.SECOND_LAYER)
    own = AddsToItsMatrix(4, 2)
    own.load_state_dict(module.layers[0].attention.project.state_dict())
    module.layers[0].attention.project = own
    module.layers[2].attention = DoesNotMatter(*micro_model.SECOND_LAYER)
    model = micro_model.hook_micro(module, 3)
    assert failures(model) == [
        ("layer 2", "layers.2.attention.project", "ablation matters"),
        ("layer 0", "layers.0.attention.project", "heads rebuild the output"),
        ("output layer", "unembed", "readout"),
    ]


def test_all_unreadable_layers_are_reported_at_once():
    module = micro_model.MicroModel(micro_model.FIRST_LAYER, micro_model.SECOND_LAYER)
    module.layers[0].attention = NeverProjects(*micro_model.FIRST_LAYER)
    module.layers[1].attention = ProjectsTwice(*micro_model.SECOND_LAYER)
    assert failures(micro_model.hook_micro(module, 2)) == [readable(0), readable(1)]


def test_proving_leaves_no_hook_and_computes_no_graph():
    passes = []

    class NotesGraphs(micro_model.MicroModel):
        def forward(self, ids):
            passes.append(torch.is_grad_enabled())
            return super().forward(ids)

    model = micro_model.hook_micro(NotesGraphs(micro_model.FIRST_LAYER))
    with model.unchanged():
        prove(model, IDS)
    assert passes
    assert not any(passes)


# --- 5. the model is as it was ---------------------------------------------------------------------------------------
