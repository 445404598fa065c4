"""Golden dictionaries, made by SAELens and circuit-tracer themselves, with what they say of some activations.

Run in an environment that has both, which pin other versions than this project's tests do:

    python tests/helpers/sae_lens_golden.py tests/dictionaries/golden

Nothing of this project is imported. Each folder has a dictionary as it is saved, and `expected.safetensors` with
activations `x`, its latents `latents` and what it makes of them, `output`.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

WIDTH, OUT, LATENTS, ROWS, HEADS = 12, 10, 24, 7, 3
METADATA = {"hook_name": "blocks.1.hook_resid_post", "model_name": "tiny"}

AUTOENCODERS: dict[str, dict[str, Any]] = {
    "standard": {},
    "standard_without_b_dec": {"apply_b_dec_to_input": False},
    "standard_constant_norm_rescale": {"normalize_activations": "constant_norm_rescale"},
    "standard_layer_norm": {"normalize_activations": "layer_norm"},
    "standard_expected_average_only_in": {"normalize_activations": "expected_average_only_in"},
    "standard_covariance_whitening": {"normalize_activations": "covariance_whitening"},
    "standard_hook_z": {"reshape_activations": "hook_z"},
    "topk": {"k": 4},
    "topk_rescaled": {"k": 4, "rescale_acts_by_decoder_norm": True},
    "jumprelu": {},
    "gated": {},
    "gated_layer_norm": {"normalize_activations": "layer_norm"},
}
TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")

OLD: dict[str, dict[str, Any]] = {
    "old_standard": {"hook_point": "blocks.1.hook_resid_post", "normalize_activations": False},
    "old_topk": {
        "hook_name": "blocks.1.hook_resid_post",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 3},
        "architecture": "standard",
    },
    "old_hook_z": {"hook_name": "blocks.1.attn.hook_z", "architecture": "standard", "apply_b_dec_to_input": False},
}
"""Configurations as versions before 6.0 wrote them."""


def randomized(module: Any) -> Any:
    """The same with every parameter drawn anew, decoders not of norm 1 and thresholds above 0."""
    with torch.no_grad():
        for name, value in module.named_parameters():
            drawn = torch.randn(value.shape) * (0.3 if value.dim() > 1 else 0.1)
            value.copy_(drawn.abs() if "threshold" in name else drawn)
    return module


def expected(sae: Any, folder: Path, x: torch.Tensor) -> None:
    """Writes what a dictionary makes of activations, as rows of one width."""
    with torch.no_grad():
        found = {"x": x, "latents": sae.encode(x), "output": sae(x)}
    save_file(
        {name: value.reshape(ROWS, -1).contiguous() for name, value in found.items()}, folder / "expected.safetensors"
    )


def make_autoencoder(name: str, options: dict[str, Any], target: Path) -> None:
    from sae_lens import saes
    from sae_lens.registry import get_sae_class

    kind, config = get_sae_class(name.split("_")[0])
    place = {"hook_name": "blocks.1.attn.hook_z"} if "reshape_activations" in options else {}
    metadata = saes.sae.SAEMetadata(**METADATA | place)
    sae = randomized(kind(config(d_in=WIDTH, d_sae=LATENTS, metadata=metadata, **options)))
    sae.save_model(target / name)
    x = torch.randn(ROWS, WIDTH) + 0.3
    expected(sae, target / name, x.reshape(ROWS, HEADS, -1) if place else x)


def make_batchtopk(target: Path) -> None:
    """As it is saved for inference, and as its training saves it."""
    from sae_lens import SAE
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    x = torch.randn(ROWS, WIDTH)
    for name, is_rescaled in (("batchtopk", False), ("batchtopk_rescaled", True)):
        config = BatchTopKTrainingSAEConfig(
            d_in=WIDTH,
            d_sae=LATENTS,
            k=4,
            rescale_acts_by_decoder_norm=is_rescaled,
            metadata=SAEMetadata(**METADATA),
        )
        sae = randomized(BatchTopKTrainingSAE(config))
        sae.topk_threshold = torch.tensor(0.4, dtype=torch.double)
        sae.save_model(target / name)
        sae.save_inference_model(target / f"{name}_inference")
        trained = SAE.load_from_disk(target / f"{name}_inference")
        expected(trained, target / f"{name}_inference", x)
        expected(trained, target / name, x)


def make_transcoder(name: str, target: Path) -> None:
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata

    kind, config = get_sae_class(name)
    metadata = SAEMetadata(
        hook_name="blocks.1.ln2.hook_normalized", hook_name_out="blocks.1.hook_mlp_out", model_name="tiny"
    )
    chosen = config(d_in=WIDTH, d_sae=LATENTS, d_out=OUT, apply_b_dec_to_input=False, metadata=metadata)
    sae = randomized(kind(chosen))
    sae.save_model(target / name)
    expected(sae, target / name, torch.randn(ROWS, WIDTH))


def make_old(name: str, config: dict[str, Any], target: Path) -> None:
    """Written as before 6.0, and read by today's SAELens."""
    from sae_lens import SAE

    folder = target / name
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"d_in": WIDTH, "d_sae": LATENTS, "dtype": "float32", "device": "cpu", "model_name": "tiny"} | config
    (folder / "cfg.json").write_text(json.dumps(settings))
    shapes = {"W_enc": (WIDTH, LATENTS), "W_dec": (LATENTS, WIDTH), "b_enc": (LATENTS,), "b_dec": (WIDTH,)}
    weights = {key: torch.randn(shape) * 0.3 for key, shape in shapes.items()}
    save_file(weights | {"scaling_factor": torch.ones(LATENTS)}, folder / "sae_weights.safetensors")
    x = torch.randn(ROWS, WIDTH)
    expected(SAE.load_from_disk(folder), folder, x.reshape(ROWS, HEADS, -1) if "hook_z" in name else x)


def make_circuit_tracer(target: Path) -> None:
    from circuit_tracer.transcoder.activation_functions import JumpReLU
    from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, load_relu_transcoder

    folder = target / "circuit_tracer"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(
        "model_kind: transcoder_set\nmodel_name: tiny\nscan: tiny\n"
        "feature_input_hook: mlp.hook_in\nfeature_output_hook: mlp.hook_out\n"
    )
    x = torch.randn(ROWS, WIDTH)
    found = {"x": x}
    for layer, kind in enumerate((torch.nn.functional.relu, JumpReLU(torch.zeros(LATENTS), 0.1))):
        made = SingleLayerTranscoder(
            WIDTH, LATENTS, kind, layer, skip_connection=layer == 1, device=torch.device("cpu"), dtype=torch.float32
        )
        file = folder / f"layer_{layer}.safetensors"
        randomized(made).to_safetensors(str(file))
        read = load_relu_transcoder(str(file), layer, torch.device("cpu"), lazy_encoder=False, lazy_decoder=False)
        with torch.no_grad():
            latents = read.encode(x)
            found |= {f"latents.{layer}": latents, f"output.{layer}": read.decode(latents, x)}
    save_file(found, folder / "expected.safetensors")


def main(target: Path) -> None:
    """Makes all of them."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    for name, options in AUTOENCODERS.items():
        make_autoencoder(name, options, target)
    make_batchtopk(target)
    for name in TRANSCODERS:
        make_transcoder(name, target)
    for name, options in OLD.items():
        make_old(name, options, target)
    make_circuit_tracer(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
