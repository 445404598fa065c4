"""Releases in the ONNX format, made as their makers make them: exported by PyTorch, quantized by ONNX Runtime."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn
from transformers import DynamicCache

from circuitcheck.runtimes.pytorch.quiet import quiet

OPSET = 18
"""Weights of 8 bits are unsigned below: of signed ones, kernels clip sums where the processor has no VNNI."""

Maker = Callable[[Path, Path, Sequence[Sequence[int]]], None]


class _Forward(nn.Module):
    """The model's outputs of that name, and nothing else."""

    def __init__(self, module: nn.Module, outputs: Sequence[str]) -> None:
        super().__init__()
        self.module, self.outputs = module, tuple(outputs)
        self.options = {"use_cache": False} if "use_cache" in inspect.signature(module.forward).parameters else {}

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.module(input_ids=input_ids, attention_mask=attention_mask, **self.options)
        return tuple(found[name] for name in self.outputs)


def export(module: nn.Module, file: Path, outputs: Sequence[str] = ("logits",)) -> Path:
    """Writes a model in float32, as PyTorch's exporter by tracing does; batch and sequence are free."""
    ids = torch.arange(14).reshape(2, 7) % 10 + 4
    inputs = ("input_ids", "attention_mask")
    file.parent.mkdir(parents=True, exist_ok=True)
    with _silent(), torch.no_grad():
        torch.onnx.export(
            _Forward(module, outputs).eval(),  # the exporter leaves it, and so the module, as it finds it
            (ids, torch.ones_like(ids)),
            str(file),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: {0: "batch", 1: "sequence"} for name in (*inputs, *outputs)},
            dynamo=False,
            opset_version=OPSET,
        )
    return file


class _WithPast(nn.Module):
    """A decoder that takes keys and values of earlier positions, and gives those of all."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, *past: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        cache = DynamicCache(zip(past[::2], past[1::2], strict=True))
        found = self.module(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, past_key_values=cache
        )
        states = (state for layer in cache.layers for state in (layer.keys, layer.values))
        return found.logits, *states


def export_with_past(module: nn.Module, file: Path) -> Path:
    """Writes a decoder with a past of keys and values, by the names that Hugging Face's exporters give them."""
    config = module.config
    heads, width = getattr(config, "num_key_value_heads", config.num_attention_heads), module.config.head_dim
    ids, before = torch.arange(14).reshape(2, 7) % 10 + 4, 3
    past = [torch.randn(2, heads, before, width) for _ in range(2 * config.num_hidden_layers)]
    places = [f"{layer}.{part}" for layer in range(config.num_hidden_layers) for part in ("key", "value")]
    inputs = ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{place}" for place in places)]
    outputs = ["logits", *(f"present.{place}" for place in places)]
    axes = {name: {0: "batch", 1: "sequence"} for name in ("input_ids", "position_ids", "logits")}
    axes["attention_mask"] = {0: "batch", 1: "total"}
    axes |= {name: {0: "batch", 2: "past"} for name in inputs[3:]} | {
        name: {0: "batch", 2: "total"} for name in outputs[1:]
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with _silent(), torch.no_grad():
        torch.onnx.export(
            _WithPast(module).eval(),
            (ids, torch.ones(2, 7 + before, dtype=torch.int64), torch.arange(before, before + 7).expand(2, 7), *past),
            str(file),
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=axes,
            dynamo=False,
            opset_version=OPSET,
        )
    return file


def quantize(source: Path, file: Path, form: str, prompts: Sequence[Sequence[int]] = ()) -> Path:
    """Makes a release of another form of a float32 one.

    Args:
        source: the float32 file.
        file: where the release goes.
        form: a name of `FORMS`.
        prompts: token ids that a static quantization is calibrated on.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with _silent():
        FORMS[form](source, file, prompts)
    return file


def _dynamic(source: Path, file: Path, _: Sequence[Sequence[int]]) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(str(source), str(file), weight_type=QuantType.QUInt8, per_channel=True)


def _half(source: Path, file: Path, _: Sequence[Sequence[int]]) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=False), file)


def _static(form: str, activations: str = "QUInt8", **options: Any) -> Maker:
    def make(source: Path, file: Path, prompts: Sequence[Sequence[int]]) -> None:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.rows = iter(prompts)

            def get_next(self) -> Any:
                ids = next(self.rows, None)
                rows = None if ids is None else np.array([ids], np.int64)
                return None if rows is None else {"input_ids": rows, "attention_mask": np.ones_like(rows)}

        quantize_static(
            str(source),
            str(file),
            Reader(),
            quant_format=QuantFormat[form],
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QUInt8,
            activation_type=QuantType[activations],
            extra_options={"MatMulConstBOnly": True, **options},
        )

    return make


def _blocks(bits: int, form: str = "QOperator", **options: Any) -> Maker:
    def make(source: Path, file: Path, _: Sequence[Sequence[int]]) -> None:
        from onnxruntime.quantization import QuantFormat
        from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

        config = DefaultWeightOnlyQuantConfig(
            block_size=32, bits=bits, accuracy_level=4, quant_format=QuantFormat[form], **options
        )
        quantizer = MatMulNBitsQuantizer(onnx.load(source), algo_config=config)
        quantizer.process()
        quantizer.model.save_model_to_file(str(file), False)

    return make


def _bnb(kind: int) -> Maker:
    def make(source: Path, file: Path, _: Sequence[Sequence[int]]) -> None:
        from onnxruntime.quantization.matmul_bnb4_quantizer import MatMulBnb4Quantizer

        quantizer = MatMulBnb4Quantizer(onnx.load(source), kind, 64)
        quantizer.process()
        quantizer.model.save_model_to_file(str(file), False)

    return make


FORMS: dict[str, Maker] = {
    "float16": _half,
    "dynamic": _dynamic,
    "qdq": _static("QDQ"),
    "qdq-a16": _static("QDQ", "QUInt16", UseQDQContribOps=True),
    "qoperator": _static("QOperator"),
    "int8-blocks": _blocks(8, is_symmetric=True),
    "int4-blocks": _blocks(4, is_symmetric=False),
    "int4-qdq": _blocks(4, "QDQ", is_symmetric=True),
    "int2-blocks": _blocks(2, is_symmetric=True),
    "fp4": _bnb(0),
    "nf4": _bnb(1),
}
"""Name of a form to what makes it of a float32 file."""


@contextmanager
def _silent() -> Iterator[None]:
    """Exporters and quantizers warn of much that is meant."""
    level = logging.root.manager.disable
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(level)
