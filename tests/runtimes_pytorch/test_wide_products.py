"""Half-precision products by float32 kernels are the products that the release's own kernels make."""

from __future__ import annotations

import pytest
import tiny_circuits
import tiny_models
import torch
from torch.nn.functional import linear, softmax

from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.measure import measure
from circuitcheck.gate.record import record_reference
from circuitcheck.runtimes.pytorch import forward, wide_products
from circuitcheck.runtimes.pytorch.loading.load import hook_module
from circuitcheck.runtimes.pytorch.wide_products import WideProducts, slow_types

HALVES = (torch.float16, torch.bfloat16)
FORMS = {
    "linear": lambda x, w, b: linear(x, w.T, b),
    "linear by keyword": lambda x, w, b: linear(input=x, weight=w.T, bias=b),
    "matmul": lambda x, w, _: torch.matmul(x, w),
    "@": lambda x, w, _: x @ w,
    "mm": lambda x, w, _: x[0].mm(w),
    "bmm": lambda x, w, _: torch.bmm(x, w.expand(len(x), -1, -1)),
    "addmm": lambda x, w, b: torch.addmm(b, x[0], w),
    "baddbmm": lambda x, w, b: b.expand(len(x), x.shape[1], -1).baddbmm(x, w.expand(len(x), -1, -1), beta=0.5, alpha=2),
}


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide_products, "has_kernels", lambda _: False)


@pytest.fixture(scope="module")
def baseline():
    reference = tiny_models.tiny_model("llama")
    return record_reference(reference, tiny_circuits.solvable_task(reference), MeasurementSpec(draws=100))


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("form", FORMS)
def test_they_are_rounded_once_as_the_own_kernels_do(form, kind):
    """Both sum in float32, in another order: a sum is rounded to the same number but where it lies between two."""
    x, w, b = (values.to(kind) for values in (numbers(3, 20, 256), numbers(256, 50), numbers(50)))
    own = FORMS[form](x, w, b)
    with WideProducts(HALVES):
        wide = FORMS[form](x, w, b)
    exact = FORMS[form](x.double(), w.double(), b.double())
    assert wide.dtype == kind
    assert (own == wide).double().mean() > 0.99
    # Half a step of the type, and of sums of 256 products of about 1 what float32 leaves.
    assert ((wide.double() - exact).abs() <= torch.finfo(kind).eps / 2 * exact.abs() + 1e-5).all()


def test_an_unembedding_is_widened_part_by_part(monkeypatch):
    x, w, b = (values.half() for values in (numbers(4, 8), numbers(50, 8), numbers(50)))
    with WideProducts(HALVES):
        whole = linear(x, w, b)
        monkeypatch.setattr(forward, "CHUNK", 7 * 8)
        assert torch.equal(linear(x, w, b), whole)


class Quantized(torch.Tensor):
    """A weight with a product of its own, as quantization libraries make them."""

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), keywords=None):
        if function is linear:
            return "its own kernel"
        return super().__torch_function__(function, types, arguments, keywords or {})


def test_everything_else_is_left_as_it_is():
    x, w = numbers(4, 8).half(), numbers(8, 8).half()
    out = torch.empty(4, 8, dtype=torch.float16)
    with WideProducts((torch.float16,)):
        assert torch.equal(softmax(x, -1), torch.softmax(x, -1))
        assert linear(x, w.as_subclass(Quantized)) == "its own kernel"
        assert torch.mm(x, w, out=out) is out
        assert (x.float() @ w.float()).dtype == torch.float32
        with pytest.raises(RuntimeError, match="same dtype"):
            x @ w.float()


@pytest.mark.parametrize("kind", HALVES)
def test_a_half_precision_model_is_measured_by_them_and_says_so(baseline, no_kernels, monkeypatch, kind):
    module = tiny_models.tiny_module("llama").to(kind)
    assert slow_types(module) == (kind,)
    wide = measure(hook_module(module), baseline, curves=False)
    note = f"This CPU has no kernels for products of {str(kind)[6:]}, so float32 ones make them"
    assert any(line.startswith(note) for line in wide.notes)
    monkeypatch.setattr(wide_products, "has_kernels", lambda _: True)
    own = measure(hook_module(module), baseline, curves=False)
    assert not any("float32 ones" in line for line in own.notes)
    for measured in ("drift_median", "drift_largest"):
        drifts = [getattr(found.circuit, measured).value for found in (own, wide)]
        assert drifts[1] == pytest.approx(drifts[0], rel=0.1)
        assert drifts[1] > 0


def test_a_float32_model_runs_no_pass_for_them(baseline, no_kernels):
    module = tiny_models.tiny_module("llama")
    assert slow_types(module) == ()
    assert hook_module(module).probed(baseline.task.prompts()).wide == ()


def test_a_model_whose_logits_they_change_keeps_its_own(baseline, no_kernels):
    module = tiny_models.tiny_module("llama").half()

    def differ(_, __, output):
        return output * (1 + torch._C._len_torch_function_stack())

    module.model.layers[0].mlp.register_forward_hook(differ)
    assert hook_module(module).probed(baseline.task.prompts()).wide == ()
