"""The table of settings.

A new setting is one field here, and one of `MeasurementSpec`, of the same name, if it changes what is measured.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from circuitcheck.core.candidates import BITSANDBYTES, DEFAULT_CANDIDATES, EMBEDDED, PRECISIONS, RTN, TORCHAO
from circuitcheck.core.specification import ABLATIONS, METRICS, POSITIONS, SWEEPS, MeasurementSpec
from circuitcheck.plugin.options import option, options_of
from circuitcheck.plugin.shards import Shard, parse_shard
from circuitcheck.runtimes.choose import AUTO, RUNTIMES
from circuitcheck.runtimes.pytorch import FEATURE, UNIT_KINDS

TABLE = "tool.circuitcheck"
INCOMPLETE = 10
"""Exit code, in CI, of a run that passes but did not compare everything; pytest's own end at 6."""

OF_DICTIONARY = f"{FEATURE}:"
"""What stands before the path of a dictionary."""

TASKS = ("ioi", "facts", "induction")
UNITS_OF_BYTES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_bytes(text: str) -> int:
    """Bytes of `800M`, `2GB`, `1.5 GiB` or `2000000`; units are powers of 1024.

    Raises:
        ValueError: not an amount of memory above 0.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?\s*", text, flags=re.IGNORECASE)
    size = int(float(match[1]) * UNITS_OF_BYTES[match[2].upper()]) if match else 0
    if size < 1:
        raise ValueError("an amount such as 800M or 2GB")
    return size


def _directory(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise ValueError("a directory, and this is a file")
    return path


def _report(path: Path) -> dict[str, Any]:
    from circuitcheck.report.compare import load_report

    return load_report(path)


def _cluster(address: str) -> str:
    if address in ("local", "auto") or re.fullmatch(r"[\w.\-]+:\d{1,5}", address):
        return address
    raise ValueError("host:port or auto, written --circuit-ray=ADDRESS; put paths of tests before it")


def _units(given: tuple[str, ...]) -> tuple[str, ...]:
    if all(unit in UNIT_KINDS or unit.startswith(OF_DICTIONARY) for unit in given):
        return given
    raise ValueError(f"one of {', '.join(UNIT_KINDS)}, or {OF_DICTIONARY}PATH")


def _limits(overrides: dict[str, Any]) -> dict[str, Any]:
    from circuitcheck.verdict.limits import check_overrides

    check_overrides(overrides, where=f"[{TABLE}] limits")
    return overrides


def is_ci() -> bool:
    """Whether this machine says that nobody sits in front of it."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


@dataclass(frozen=True)
class Settings:
    """One run's settings; the help of each says what it is.

    Every path is absolute or relative to the working directory.

    Attributes:
        report: asked for on the command line, a run that compares nothing fails, whatever it collects; as a key of the
            table, it speaks of runs that collect the gate's tests, so that others may still be run alone.
        compare: the report itself, read before this run's own can take its place.
        memory: in bytes.
        file: the pyproject.toml whose table was read, as seen from here; empty where there is none.
        command: the command that this run was, without what it was to do.
        report_command: a command that measures the same again.
    """

    report: bool = option(
        False,
        "print the fragility tables, and fail the run unless everything that was compared passes (nothing compared: "
        "exit code 5)",
        repeated="never",
    )
    report_dir: Path | None = option(
        None,
        "also write report.json, report.md and report.html into DIR (implies --circuit-report)",
        metavar="DIR",
        parse=_directory,
        repeated="never",
    )
    figures: Path | None = option(
        None,
        "draw the figures into DIR, as SVG and PNG (implies --circuit-report)",
        metavar="DIR",
        parse=_directory,
        repeated="never",
    )
    compare: dict[str, Any] | None = option(
        None,
        "say what changed since the release of that report.json, per criterion and head (implies --circuit-report)",
        metavar="REPORT",
        kind=Path,
        parse=_report,
        where="command line",
    )
    model: str = option(
        EMBEDDED,
        f"the reference: a Hugging Face directory, {EMBEDDED!r}, or with --circuit-download a hub id",
        metavar="ID_OR_DIR",
        paths_unless=(EMBEDDED,),
    )
    candidates: tuple[str, ...] = option(
        DEFAULT_CANDIDATES,
        "what to gate: a saved directory, a .gguf or .onnx file, or a precision that is made from the reference: "
        f"{', '.join(DEFAULT_CANDIDATES)} (a simulation), {', '.join(RTN)}, with torchao {', '.join(TORCHAO)}, with "
        f"bitsandbytes {', '.join(BITSANDBYTES)}; repeatable",
        metavar="SPEC",
        paths_unless=PRECISIONS,
        repeated="to compare",
    )
    tasks: tuple[str, ...] = option(
        TASKS,
        f"{', '.join(TASKS)}, or a .jsonl file of prompt pairs; repeatable",
        metavar="NAME_OR_FILE",
        paths_unless=TASKS,
    )
    units: tuple[str, ...] = option(
        (MeasurementSpec.unit,),
        "kind of unit that is measured, ablated and repaired: attention heads (head), each layer's whole attention and "
        "whole MLP (block), neurons of MLPs (neuron), of which gradients choose some, or features of a dictionary "
        f"({OF_DICTIONARY}PATH of a SAE or of transcoders, or {OF_DICTIONARY}{EMBEDDED}), one for each hook point; "
        "repeatable",
        metavar="KIND",
        paths_unless=(*UNIT_KINDS, OF_DICTIONARY + EMBEDDED),
        prefix=OF_DICTIONARY,
        parse=_units,
    )
    baselines: Path = option(Path("baselines"), "where golden baselines lie", metavar="DIR")
    accept: str | None = option(
        None,
        "record golden baselines from the reference instead of comparing: those that are missing (new), those that "
        "exist and differ (changed), or both (all); needs --circuit-reason",
        choices=("new", "changed", "all"),
        where="command line",
    )
    reason: str = option(
        "",
        "why the present reference is accepted; kept in the baseline",
        metavar="TEXT",
        parse=str.strip,
        where="command line",
    )
    accept_in_ci: bool = option(
        False, "allow --circuit-accept where the environment variable CI is set", where="command line"
    )
    calibrate: bool = option(
        False,
        "measure the reference against its golden baselines under every source of noise (threads, batches, prompt "
        "order, attention kernels, loading) and store the noise floor in them, instead of comparing candidates",
        where="command line",
    )
    against_base: bool = option(
        False,
        "measure the reference in this run and compare with that, instead of trusting the stored baselines; takes any "
        "number of prompts and any specification",
        repeated="to compare",
    )
    multiverse: bool = option(
        False,
        "repeat every verdict under each ablation, metric and choice of positions, and report how often it flips "
        "(loads the reference)",
        repeated="to compare",
    )
    keep: bool = option(
        False,
        "for every candidate that fails, search for the fewest projections that must stay in high precision for it to "
        "pass (loads the reference)",
        repeated="to compare",
    )
    prompts: int | None = option(
        None,
        "prompt pairs of each built-in task; a candidate is measured on 64 first, and on more while INCONCLUSIVE "
        "(default: up to 128, as many as its words give)",
        metavar="N",
        least=1,
    )
    part: int = option(
        MeasurementSpec.part,
        "solved prompts that drift, gradients and repair use; baselines grow with it",
        metavar="N",
        least=1,
    )
    ablation: str = option(MeasurementSpec.ablation, "ablation whose importances are compared", choices=ABLATIONS)
    metric: str = option(
        MeasurementSpec.metric,
        f"what is measured of a prompt: {', '.join(METRICS)} (of the answer), or package.module:function for a Python "
        "function of the model's output",
        metavar="NAME",
    )
    ablate_at: str = option(
        MeasurementSpec.ablate_at,
        "positions whose z an ablation replaces: all, or the answer position only",
        choices=POSITIONS,
    )
    positions: str = option(
        MeasurementSpec.positions,
        "positions at which baselines keep z: all, or the answer position only, which makes the baselines of large "
        "models small and drift and repair blind to earlier positions",
        choices=POSITIONS,
    )
    sweep: str = option(
        MeasurementSpec.sweep,
        "ablate every head (exact), or, for models with many heads, those that the reference's gradients point to and "
        "a random sample of the rest, from which the report says what may have been missed",
        choices=SWEEPS,
    )
    memory: int | None = option(
        None,
        "byte budget of the sweeps beside the model, such as 800M or 2GB (default: half of what is free); with "
        "--circuit-device-map of everything, weights included",
        metavar="SIZE",
        kind=str,
        parse=parse_bytes,
    )
    device_map: str | None = option(
        None,
        "for a reference that does not fit: auto keeps as many of its weights as memory, or half of --circuit-memory, "
        "holds, and leaves the rest in its safetensors files until they are needed; disk leaves all layers there; or a "
        "JSON file of modules and devices",
        metavar="MAP",
        paths_unless=("auto", "disk"),
    )
    offload: Path | None = option(
        None,
        "folder for weights of such a reference that cannot be read as its files hold them, such as stacked experts",
        metavar="DIR",
        parse=_directory,
    )
    resume: Path | None = option(
        None,
        "keep finished rows of sweeps in DIR, so that a run that was killed goes on where it was when it is started "
        "again; a folder for each reference",
        metavar="DIR",
        parse=_directory,
        repeated="never",
    )
    shard: Shard | None = option(
        None,
        "do the I-th of N parts of the gate, or of the recording, and leave it as a file in --circuit-report-dir; "
        "`python -m circuitcheck.merge` puts all parts together",
        metavar="I/N",
        kind=str,
        parse=parse_shard,
        where="command line",
    )
    ray: str | None = option(
        None,
        "carry out sweeps on a Ray cluster: without a value one is started on this machine, else the one at "
        "--circuit-ray=ADDRESS (host:port, or auto) is joined; every worker keeps the model in its own memory",
        metavar="ADDRESS",
        without="local",
        parse=_cluster,
        where="command line",
    )
    device: str = option("auto", "where models run: auto, cpu, cuda, cuda:1, ...", metavar="DEVICE")
    dtype: str = option(
        "auto",
        "type that saved candidates are loaded in; auto is as they were saved",
        choices=("auto", "f32", "f16", "bf16"),
        repeated="to compare",
    )
    runtime: str = option(
        AUTO,
        "what saved candidates run in; auto is what their users run them in, where that is installed, and where it is "
        "not, the report says what is missed",
        choices=RUNTIMES,
        repeated="to compare",
    )
    download: bool = option(
        False,
        "take a reference or a candidate called owner/name for a hub id, and fetch what is not in the local cache; "
        "without it every model is local",
    )
    allow_inconclusive: bool = option(
        False, "skip, instead of fail, what cannot be decided; it is never shown as passed", repeated="never"
    )
    allow_incomplete: bool = option(
        False,
        f"let a run pass where the environment variable CI is set and not every candidate was compared on every task; "
        f"without it that is exit code {INCOMPLETE}",
        repeated="never",
    )
    limits: dict[str, Any] = option(
        {}, "what criteria must keep, as circuitcheck.verdict.limits takes it", parse=_limits, where="table"
    )
    file: str = ""
    command: str = "pytest"
    report_command: str = "pytest --circuit-report"

    @property
    def writes_baselines(self) -> bool:
        """Whether the run writes golden baselines; then it compares nothing."""
        return self.calibrate or self.accept is not None

    @property
    def is_reported(self) -> bool:
        """Whether tables are printed, and the verdicts decide the exit code; never where nothing is compared."""
        return not self.writes_baselines and bool(self.report or self.report_dir or self.figures or self.compare)

    @property
    def green(self) -> set[str]:
        """Words of a whole run that do not fail it."""
        allowed = {"INCONCLUSIVE": self.allow_inconclusive, "INCOMPLETE": self.allow_incomplete or not is_ci()}
        return {"PASS"} | {word for word, is_allowed in allowed.items() if is_allowed}

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of unit; all dictionaries give one."""
        return tuple(dict.fromkeys(unit.partition(":")[0] for unit in self.units))

    @property
    def dictionaries(self) -> tuple[str, ...]:
        """Paths of the dictionaries whose latents are features."""
        return tuple(unit.removeprefix(OF_DICTIONARY) for unit in self.units if unit.startswith(OF_DICTIONARY))

    def spec(self, unit: str) -> MeasurementSpec:
        """What is measured of units of one kind.

        Raises:
            ConfigurationError: choices that no measurement can combine.
        """
        shared = {found.name for found in fields(MeasurementSpec)} & {option.name for option in OPTIONS}
        return MeasurementSpec(unit=unit, **{name: getattr(self, name) for name in shared})


OPTIONS = options_of(Settings)
"""Every setting, in the order of `pytest --help`."""
