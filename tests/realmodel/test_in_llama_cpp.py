"""A real model's releases in llama.cpp: what its kernels do is seen, and a circuit that was cut is found."""

from __future__ import annotations

import gguf_writer
import numpy as np
import pytest
import releases
import torch
from transformers import AutoTokenizer

from circuitcheck import load_candidate, load_model, load_task
from circuitcheck.runtimes.choose import KINDS
from circuitcheck.runtimes.pytorch.forward import last_logits

pytestmark = [
    pytest.mark.realmodel,
    pytest.mark.skipif(
        not KINDS["llamacpp"].is_installed,
        reason='llama-cpp-python is not installed: pip install "circuitcheck[llamacpp]"',
    ),
]


@pytest.fixture(scope="module")
def files(desk, real_model):
    """Q8_0, the same with the most important head pruned, and float32."""
    words = sorted(AutoTokenizer.from_pretrained(real_model).get_vocab().items(), key=lambda item: item[1])
    module, folder = releases.load_float(real_model), desk.folder / "in-llama-cpp"

    def write(kind, name):
        return gguf_writer.write_gguf(module, folder / f"{name}.gguf", kind, tokens=[word for word, _ in words])

    written = {"Q8_0": write("Q8_0", "eight-bits"), "F32": write("F32", "float")}
    with torch.no_grad():
        module.model.layers[2].self_attn.o_proj.weight[:, 6 * 8 : 7 * 8] = 0
    return written | {"pruned": write("Q8_0", "pruned")}


def test_they_are_gated_by_path(desk, files):
    names = ("Q8_0", "pruned")
    arguments = [f"--circuit-candidate={files[name].relative_to(desk.folder)}" for name in names]
    process = desk.gate("--circuit-report", "--circuit-report-dir=out-llama", *arguments)
    assert process.returncode == 1
    text = " ".join(process.stdout.split())
    assert "Runs in llama.cpp (llama-cpp-python " in text
    assert "circuit gate: FAIL (1 PASS, 1 FAIL)" in text
    assert "Traceback" not in text


def test_half_of_what_happens_to_eight_bits_is_missed_without_it(desk, real_model, files):
    reference = load_model(real_model)
    prompts = load_task(str(desk.folder / "names.jsonl"), reference.tokenizer).prompts(range(40))

    def run(name, runtime):
        model = load_candidate(str(files[name]), runtime, reference=str(real_model))
        if runtime == "llamacpp":
            return np.concatenate([model.passes.logits(batch.clean) for batch in prompts.batches()])
        with torch.no_grad():
            ids = [torch.from_numpy(batch.clean) for batch in prompts.batches()]
            return torch.cat([last_logits(model, part) for part in ids]).numpy()

    exact, unpacked, native = run("F32", "pytorch"), run("Q8_0", "pytorch"), run("Q8_0", "llamacpp")
    seen, missed, whole = (
        np.sqrt(np.mean((one - other) ** 2)) for one, other in ((unpacked, exact), (native, unpacked), (native, exact))
    )
    assert 0.7 < missed / seen < 1.4
    assert whole > 1.2 * seen
