"""Releases by the tools that people use, gated by path: `python benchmarks/real_releases.py --reference DIR --out DIR`.

Of a small trained Llama (stories260k) llm-compressor makes one release a recipe of `real_releases_worker.py`, on a CPU,
in an environment of its own, which is made under `--out` (1.5 GB with torch's CPU build). Where the environment cannot
be made or a release fails, the table says so with the reason, and goes on. What lies there from an earlier run is not
made again.

Two steps of the tool are left out: SpinQuant's centring of the embedding, which is no change of basis (but for the
release called `centred`, which shows what it does), and AWQ's pinned memory, which a machine without a GPU lacks.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from name_recall import write_names

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.core.errors import CircuitcheckError
from circuitcheck.gate.judge import judge
from circuitcheck.gate.measure import measure
from circuitcheck.gate.record import record_reference
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.load import hook_module, load_model
from circuitcheck.runtimes.pytorch.quiet import quiet, quiet_quantizers
from circuitcheck.tasks.named import load_task
from circuitcheck.verdict.limits import limits_for

WORKER = Path(__file__).parent / "real_releases_worker.py"
TORCH = "torch==2.13.0"
"""Exactly: anything looser may pull gigabytes of packages for CUDA."""

TOOL = "llmcompressor==0.14.0.1"
WIDTH = 130
"""Of a reason in the table; `--json` has all of it."""

MINUTES = 10
"""The longest that an installation or a release may take."""

RELEASES = {
    "rtn-w8a8": "none: rounded to nearest, W8A8",
    "spinquant-r1": "SpinQuant R1, float",
    "spinquant-r2": "SpinQuant R2, float",
    "spinquant-r1-w8a8": "SpinQuant R1 + W8A8",
    "spinquant-r2-w8a8": "SpinQuant R2 + W8A8",
    "spinquant-r1r2-w8a8": "SpinQuant R1 R2 + W8A8",
    "spinquant-centred": "SpinQuant R1 R2 + W8A8, embedding centred",
    "spinquant-r3": "SpinQuant R1 R2 R3, float",
    "spinquant-r4": "SpinQuant R4, float",
    "quip-v": "QuIP v, float",
    "quip-vu": "QuIP v and u, float",
    "quip-vu-w8a8": "QuIP v and u + W8A8",
    "smoothquant-w8a8": "SmoothQuant 0.8 + W8A8",
    "awq-w8a8": "AWQ + W8A8",
    "gptq-w8a8": "GPTQ W8A8",
    "rtn-w4a16": "none: rounded to nearest, W4A16",
    "spinquant-r1r2-w4a16": "SpinQuant R1 R2 + W4A16",
    "awq-w4a16": "AWQ + W4A16",
    "gptq-w4a16": "GPTQ W4A16",
    "multihead-rtn-w8a8": "multi-head: rounded to nearest, W8A8",
    "multihead-awq-w8a8": "multi-head: AWQ + W8A8",
    "multihead-awq-w4a16": "multi-head: AWQ + W4A16",
}
"""Name of a release to how the table calls it."""

MULTIHEAD = "multihead-"
"""Releases of the reference with keys and values of its own for each head, where AWQ scales values, too."""

IN_MEMORY = ("quip-v", "quip-vu")
"""Releases that are gated in memory, too, with the transforms that transformers does not apply."""


@dataclass(frozen=True)
class Row:
    """What came out for one release.

    Attributes:
        release: how it is called.
        verdict: PASS, FAIL or INCONCLUSIVE; `refused` where it does not load, `not made` where the tool failed.
        precision: whose limits it was held to.
        profile_distance: dimensionless, as the drifts.
        drift: median and largest over heads, of what they write.
        drift_z: the same of z.
        why: the message, or the criteria that are not kept.
    """

    release: str
    verdict: str
    precision: str = ""
    profile_distance: float | None = None
    drift: tuple[float, float] | None = None
    drift_z: tuple[float, float] | None = None
    why: str = ""


def main() -> None:
    """Makes, gates, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, help="directory of a small Llama, such as stories260k")
    parser.add_argument("--out", type=Path, required=True, help="where environment and releases go, and stay")
    parser.add_argument("--only", nargs="*", choices=RELEASES, default=list(RELEASES), help="these releases")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    references = {False: options.reference, True: options.out / "multihead"}
    if any(name.startswith(MULTIHEAD) for name in options.only):
        save_multihead(options.reference, references[True])
    record = cache(lambda is_multihead: recorded(references[is_multihead]))
    rows = []
    tool = environment(options.out / "environment")
    for name in options.only:
        directory, is_multihead = options.out / name, name.startswith(MULTIHEAD)
        failure = tool if isinstance(tool, str) else made(tool, references[is_multihead], directory, name)
        if failure:
            rows.append(Row(RELEASES[name], "not made", why=failure))
            continue
        rows.append(gated(name, directory, record(is_multihead)))
        if name in IN_MEMORY:
            candidate = in_memory(options.reference, directory)
            rows.append(judged(f"{RELEASES[name]}, in memory", candidate, record(is_multihead)))
        print(f"{name}: {rows[-1].verdict}", file=sys.stderr, flush=True)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")


def environment(directory: Path) -> Path | str:
    """The Python that has the tool, or why there is none."""
    python = directory / "bin" / "python"
    constraint = directory / "constraint.txt"
    if (directory / "complete").exists():
        return python
    failure = run([sys.executable, "-m", "venv", str(directory)])
    if not failure:
        constraint.write_text(f"{TORCH}\n", encoding="utf-8")
        install = [str(python), "-m", "pip", "install", "-q", "-c", str(constraint)]
        failure = run([*install, TORCH]) or run([*install, TOOL])
    if failure:
        return f"{TOOL} cannot be installed: {failure}"
    (directory / "complete").touch()
    return python


def made(python: Path, reference: Path, directory: Path, name: str) -> str:
    """Has the tool make a release; says why it could not, else nothing."""
    if (directory / "config.json").is_file():
        return ""
    recipe = name.removeprefix(MULTIHEAD)
    return run([str(python), "-W", "ignore", str(WORKER), str(reference), str(directory), recipe])


def run(command: list[str]) -> str:
    """Runs a command; the last line that it says where it fails, else nothing."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60 * MINUTES, check=False)
    except subprocess.TimeoutExpired:
        return f"took more than {MINUTES} minutes"
    lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
    return "" if ended.returncode == 0 else (lines or ["it said nothing"])[-1][:200]


def save_multihead(reference: Path, directory: Path) -> None:
    """The same function without shared keys and values."""
    shutil.copytree(reference, directory, dirs_exist_ok=True, copy_function=shutil.copyfile)
    config = json.loads((reference / "config.json").read_text(encoding="utf-8"))
    shared = config["num_attention_heads"] // config["num_key_value_heads"]
    tensors = load_file(reference / "model.safetensors")
    for name, weight in tensors.items():
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            rows = weight.unflatten(0, (config["num_key_value_heads"], -1)).repeat_interleave(shared, 0)
            tensors[name] = rows.flatten(0, 1).contiguous()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config["num_key_value_heads"] = config["num_attention_heads"]
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")


def recorded(reference: Path) -> Baseline:
    """The reference's circuit for naming the child of a story."""
    model = load_model(reference)
    with tempfile.TemporaryDirectory() as folder:
        task = load_task(str(write_names(Path(folder) / "names.jsonl")), model.tokenizer)
    return record_reference(model, task, reason="first")


def gated(name: str, directory: Path, baseline: Baseline) -> Row:
    """A release by path, as it would be named on the command line."""
    try:
        candidate = load_model(directory, "saved")
    except CircuitcheckError as error:
        return Row(RELEASES[name], "refused", why=str(error).replace(str(directory), name))
    return judged(RELEASES[name], candidate, baseline)


def in_memory(reference: Path, directory: Path) -> HookedModel:
    """The model that compressed-tensors itself makes of a release with transforms, hooks and all."""
    from compressed_tensors.transform import TransformConfig, apply_transform_config

    plain = load_model(reference)
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    with torch.no_grad(), quiet(), quiet_quantizers():
        apply_transform_config(plain.module, TransformConfig.model_validate(config["transform_config"]))
        plain.module.load_state_dict(load_file(directory / "model.safetensors"), strict=False)
    return hook_module(plain.module, tokenizer=plain.tokenizer, name=directory.name)


def judged(called: str, candidate: HookedModel, baseline: Baseline) -> Row:
    """The verdict, and what it is of."""
    try:
        measurement = measure(candidate, baseline, curves=False)
    except CircuitcheckError as error:
        return Row(called, "refused", why=" ".join(str(error).split()))
    verdict = judge(measurement, limits_for(measurement.precision, measurement.task, {}))
    circuit = verdict.measurement.circuit
    assert circuit is not None
    drift, drift_z = torch.tensor([[unit.drift, unit.drift_z] for unit in circuit.units], dtype=torch.float64).T
    return Row(
        called,
        verdict.word,
        measurement.precision,
        circuit.profile_distance.value,
        (drift.quantile(0.5).item(), drift.max().item()),
        (drift_z.quantile(0.5).item(), drift_z.max().item()),
        ", ".join(f"{one.name}: {one.verdict}" for one in verdict.criteria if one.verdict != "PASS"),
    )


def table(rows: list[Row]) -> str:
    """All rows, in Markdown."""
    headings = [
        "release",
        "verdict",
        "limits",
        "profile distance",
        "drift: median, largest",
        "of z",
        "not kept, or why",
    ]
    cells: list[list[Any]] = [
        [
            row.release,
            row.verdict,
            row.precision,
            "" if row.profile_distance is None else f"{row.profile_distance:.2g}",
            *("" if pair is None else f"{pair[0]:.2g}, {pair[1]:.2g}" for pair in (row.drift, row.drift_z)),
            textwrap.shorten(row.why, WIDTH),
        ]
        for row in rows
    ]
    return tabulate(cells, headings, tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    main()
