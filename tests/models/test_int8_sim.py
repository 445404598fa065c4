"""`int8-sim` against a hand computation, where it rounds, and that it rounds one prompt at a time."""

from __future__ import annotations

import micro_model
import model_directories
import pytest
import tiny_models
import torch

from circuitcheck.core.errors import SiteError
from circuitcheck.runtimes.pytorch.forward import last_logits
from circuitcheck.runtimes.pytorch.loading.load import load_model
from circuitcheck.runtimes.pytorch.ports.proofs import prove
from circuitcheck.runtimes.pytorch.quantizers.int8_sim import LEVELS, NOTE, fake_quantize, simulate_int8

NAMES = ["gpt_neox", "gpt2", "llama", "opt", "bloom"]
"""OPT's MLP sees all tokens behind one another, `[batch * seq, d_model]`, the others' `[batch, seq, d_model]`."""


def test_rounding_by_hand():
    x = torch.tensor(
        [
            [127.0, -63.6, 0.4, 0.6],  # scale 1
            [-254.0, 1.0, 2.9, 3.1],  # scale 2: halves 127, 0.5, 1.45, 1.55
            [0.2, 0.3, -63.5, 10.0],  # scale 1/2: doubles 0.4, 0.6, 127, 20
            [0.0, 0.0, 0.0, 0.0],  # no scale: stays zero, and does not become NaN
        ]
    )
    expected = [[127.0, -64.0, 0.0, 1.0], [-254.0, 0.0, 2.0, 4.0], [0.0, 0.5, -63.5, 10.0], [0.0, 0.0, 0.0, 0.0]]
    assert fake_quantize(x).tolist() == expected


def test_scale_is_one_prompts_over_all_its_positions_and_features():
    x = torch.tensor([[[127.0, 0.4], [0.6, 1.2]], [[1270.0, 4.0], [6.0, 12.0]]])
    expected = [[[127.0, 0.0], [1.0, 1.0]], [[1270.0, 0.0], [10.0, 10.0]]]
    assert fake_quantize(x).tolist() == expected


def test_rounding_does_not_write_to_its_input():
    x = torch.tensor([[127.0, 0.4]])
    fake_quantize(x)
    assert x.tolist() == torch.tensor([[127.0, 0.4]]).tolist()


def simulated(name):
    model = tiny_models.tiny_model(name)
    simulate_int8(model.module, model.structure)
    return model


def outputs(model, paths, ids):
    """What each module gave, one row a prompt."""
    seen = {}

    def keep(path):
        def hook(_, __, output):
            output = output[0] if isinstance(output, tuple) else output
            seen[path] = output.reshape(len(ids), -1)

        return hook

    handles = [model.module.get_submodule(path).register_forward_hook(keep(path)) for path in paths]
    with torch.no_grad():
        last_logits(model, ids)
    for handle in handles:
        handle.remove()
    return seen


def is_rounded(rows) -> bool:
    """Whether every value is a whole number of steps, of which there are 127 up to the row's largest magnitude."""
    steps = rows / (rows.abs().amax(1, keepdim=True) / LEVELS)
    # Steps up to 127 in float32, after one division and one multiplication: 127 * 4 * 2^-24 is below 1e-4.
    return bool(((steps - steps.round()).abs() < 1e-4).all())


@pytest.mark.parametrize("name", NAMES)
def test_where_it_rounds(name):
    model = simulated(name)
    structure = model.structure
    rounded = [structure.embedding, structure.final_norm]
    untouched = [structure.output_layer]
    for site in structure.layers:
        rounded += [site.attention, site.mlp, site.path]
        untouched.append(site.projection)
    ids = tiny_models.token_ids(3, 6)
    seen = outputs(model, rounded + untouched, ids)
    assert len(set(rounded)) == 2 + 3 * 2
    assert {path: is_rounded(rows) for path, rows in seen.items()} == dict.fromkeys(rounded, True) | dict.fromkeys(
        untouched, False
    )


@pytest.mark.parametrize("name", NAMES)
def test_without_it_nothing_is_rounded(name):
    model = tiny_models.tiny_model(name)
    paths = [model.structure.final_norm, *(site.mlp for site in model.structure.layers)]
    assert not any(is_rounded(rows) for rows in outputs(model, paths, tiny_models.token_ids(3, 6)).values())


@pytest.mark.parametrize("name", NAMES)
def test_a_prompts_logits_do_not_depend_on_its_batch_mates(name):
    """Its mate's activations are a hundred times as large; with one scale for the batch little of it would be left."""
    model = tiny_models.tiny_model(name)
    quiet, loud = tiny_models.token_ids(2, 6)
    loud[:] = 2
    quiet[quiet == 2] = 3
    model.module.get_submodule(model.structure.embedding).weight.data[2] *= 100
    simulate_int8(model.module, model.structure)
    with torch.no_grad():
        with_itself = last_logits(model, torch.stack([quiet, quiet]))[0]
        with_loud = last_logits(model, torch.stack([quiet, loud]))[0]
    # the same kernels on the same shapes, so that even the last bit is the same
    assert torch.equal(with_itself, with_loud)


@pytest.mark.parametrize("name", NAMES)
def test_the_hooks_are_proven_on_it(name):
    prove(simulated(name), tiny_models.token_ids(2, 6))


def test_it_says_what_it_is(tmp_path):
    directory = model_directories.save_tiny(tmp_path / "tiny")
    model = load_model(directory, "int8-sim", device="cpu")
    assert model.precision == "int8-sim"
    assert model.notes == (NOTE,)
    assert "simulation, not an INT8 kernel" in NOTE
    assert {parameter.dtype for parameter in model.module.parameters()} == {torch.float32}
    assert model.fingerprints == load_model(directory, device="cpu").fingerprints
    ids = tiny_models.token_ids(2, 6)
    with torch.no_grad():
        difference = (last_logits(model, ids) - last_logits(load_model(directory, device="cpu"), ids)).abs().max()
    assert difference > 0


def test_an_incomplete_simulation_is_refused():
    """The micro model has neither an MLP nor a final norm."""
    model = micro_model.one_layer()
    with pytest.raises(SiteError, match=r"MicroModel: int8-sim needs .*choose another candidate precision"):
        simulate_int8(model.module, model.structure)
    assert not any(part._forward_hooks for part in model.module.modules())
