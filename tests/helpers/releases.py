"""Saves quantized releases, each as its own library does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_writer
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

from circuitcheck.runtimes.pytorch.quiet import quiet, quiet_quantizers

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def save_release(reference: Path, directory: Path, form: str) -> Path:
    """Quantizes a reference and saves it.

    Args:
        reference: a directory in float32.
        directory: where the release goes.
        form: a name of `FORMS`.

    Returns:
        What a user would name as the candidate: a directory, or a GGUF file.
    """
    directory.mkdir(parents=True)
    with quiet_quantizers(), quiet():
        saved = FORMS[form](reference, directory)
    for name in TOKENIZER:
        if saved.is_dir() and (reference / name).is_file():
            shutil.copyfile(reference / name, directory / name)
    return saved


def load_float(reference: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(reference, attn_implementation="eager", **options).eval()


def save_plain(dtype: torch.dtype) -> Callable[[Path, Path], Path]:
    def save(reference: Path, directory: Path) -> Path:
        load_float(reference, dtype=dtype).save_pretrained(directory)
        return directory

    return save


def save_torchao(make: Callable[[Any], Any]) -> Callable[[Path, Path], Path]:
    """`make` gets torchao.quantization, which says much when it is imported."""

    def save(reference: Path, directory: Path) -> Path:
        import torchao.quantization

        options = {"quantization_config": TorchAoConfig(make(torchao.quantization)), "dtype": torch.float32}
        load_float(reference, **options).save_pretrained(directory)
        return directory

    return save


def save_bitsandbytes(**settings: Any) -> Callable[[Path, Path], Path]:
    def save(reference: Path, directory: Path) -> Path:
        options = {"quantization_config": BitsAndBytesConfig(**settings), "dtype": torch.float32, "device_map": "cpu"}
        load_float(reference, **options).save_pretrained(directory)
        return directory

    return save


def save_compressed(preset: str, form: str) -> Callable[[Path, Path], Path]:
    """Of the weights only what rounding to nearest gives: a scale for each output channel."""

    def save(reference: Path, directory: Path) -> Path:
        from compressed_tensors.compressors import ModelCompressor
        from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config, preset_name_to_scheme

        module = load_float(reference, dtype=torch.float32)
        scheme = preset_name_to_scheme(preset, ["Linear"])
        scheme.weights.strategy, scheme.weights.group_size = "channel", None
        unembedding = next(name for name, part in module.named_modules() if part is module.get_output_embeddings())
        config = QuantizationConfig(
            config_groups={"all": scheme}, ignore=[unembedding], format=form, quantization_status="frozen"
        )
        apply_quantization_config(module, config)
        for part in module.modules():
            if getattr(part, "quantization_scheme", None) is not None:
                set_scales(part)
        compressor = ModelCompressor.from_pretrained_model(module, quantization_format=form)
        compressor.compress_model(module)
        module.save_pretrained(directory)
        compressor.update_config(directory)
        name_unembedding(directory, unembedding)
        return directory

    return save


def save_transformed(reference: Path, directory: Path, *groups: tuple[str, str, str, str, bool]) -> Path:
    """Through compressed-tensors, as llm-compressor does: its transforms, and a config that quantizes nothing.

    Args:
        reference: a directory in float32.
        directory: where the release goes.
        groups: name, module it is applied to, location, width of a block (of a head, or `""`) and whether it is the
            inverse; those of one name share a matrix.
    """
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.transform import TransformArgs, TransformConfig, TransformScheme, apply_transform_config

    module = load_float(reference, dtype=torch.float32)
    schemes: dict[str, TransformScheme] = {}
    for name, target, location, width, inverse in groups:
        scheme = schemes.setdefault(name, TransformScheme(type="hadamard", head_dim=width or None, apply=[]))
        scheme.apply.append(TransformArgs(targets=[target], location=location, inverse=inverse))
    with torch.no_grad():
        apply_transform_config(module, TransformConfig(config_groups=schemes))
    module.save_pretrained(directory)
    ModelCompressor.from_pretrained_model(module).update_config(directory)
    return directory


def name_unembedding(directory: Path, name: str) -> None:
    """Transformers saves GPT-NeoX's unembedding under its old name, also in this list, and looks for the new one."""
    file = directory / "config.json"
    config = json.loads(file.read_text())
    if "quantization_config" in config:
        config["quantization_config"]["ignore"] = [name]
        file.write_text(json.dumps(config))


def set_scales(part: nn.Module) -> None:
    from compressed_tensors.quantization.utils import calculate_qparams

    weight, arguments = part.weight.detach(), part.quantization_scheme.weights
    scale, zero = calculate_qparams(weight.amin(-1, keepdim=True), weight.amax(-1, keepdim=True), arguments)
    part.weight_scale.data.copy_(scale)
    if hasattr(part, "weight_zero_point"):
        part.weight_zero_point.data.copy_(zero)


def save_gguf(kind: str) -> Callable[[Path, Path], Path]:
    def save(reference: Path, directory: Path) -> Path:
        words = reference / "tokenizer.json"
        vocabulary = json.loads(words.read_text())["model"]["vocab"] if words.is_file() else {}
        tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        return gguf_writer.write_gguf(
            load_float(reference), directory / f"{directory.name}.gguf", kind, tokens=tokens or None
        )

    return save


FORMS: dict[str, Callable[[Path, Path], Path]] = {
    "f16": save_plain(torch.float16),
    "bf16": save_plain(torch.bfloat16),
    "torchao-int8": save_torchao(lambda library: library.Int8DynamicActivationInt8WeightConfig()),
    "torchao-int8-weight": save_torchao(lambda library: library.Int8WeightOnlyConfig()),
    "torchao-float8-weight": save_torchao(lambda library: library.Float8WeightOnlyConfig()),
    "torchao-int4": save_torchao(
        lambda library: library.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=library.PerAxis(0))
    ),
    "compressed-w8a8": save_compressed("W8A8", "int-quantized"),
    "compressed-w4a16": save_compressed("W4A16", "pack-quantized"),
    "compressed-fp8": save_compressed("FP8_DYNAMIC", "float-quantized"),
    "bnb-int8": save_bitsandbytes(load_in_8bit=True, llm_int8_threshold=0.0),
    "bnb-nf4": save_bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32),
    "gguf-q8_0": save_gguf("Q8_0"),
    "gguf-q4_0": save_gguf("Q4_0"),
    "gguf-f16": save_gguf("F16"),
    "gguf-bf16": save_gguf("BF16"),
}
"""Name of a form to what saves it."""
