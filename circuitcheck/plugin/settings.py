"""What a run is to do: the command line over `[tool.circuitcheck]` over the defaults."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from circuitcheck.core.candidates import DEFAULT_CANDIDATES, EMBEDDED, PRECISIONS
from circuitcheck.core.errors import ConfigurationError

TASKS = ("ioi", "facts", "induction")
TABLE = "tool.circuitcheck"

KEYS: dict[str, type] = {
    "report": bool,
    "report-dir": str,
    "figures": str,
    "model": str,
    "candidates": list,
    "tasks": list,
    "baselines": str,
    "prompts": int,
    "part": int,
    "ablation": str,
    "positions": str,
    "ablate-at": str,
    "metric": str,
    "sweep": str,
    "memory": str,
    "device": str,
    "dtype": str,
    "against-base": bool,
    "multiverse": bool,
    "keep": bool,
    "download": bool,
    "allow-inconclusive": bool,
    "limits": dict,
}
"""Keys of `[tool.circuitcheck]` and their types."""

REPEATED = ("baselines", "prompts", "part", "ablation", "positions", "ablate-at", "metric", "sweep", "memory", "device")
"""Options that a command which continues this one must repeat."""

TYPE_NAMES = {bool: "true or false", str: "a string", list: "a list of strings", int: "a number", dict: "a table"}
"""What messages call them, in TOML's words."""


@dataclass(frozen=True)
class Settings:
    """One run's settings; every path is absolute or relative to the working directory.

    Attributes:
        report: print the tables and let the verdicts decide the exit code. Asked for on the command line, a run that
            compares nothing fails, whatever it collects; as a key of the table, it speaks of runs that collect the
            gate's tests, so that others may still be run alone.
        report_dir: where report.json, report.md and report.html go.
        figures: where the figures go.
        compare: a report to compare with.
        model: the reference.
        candidates: precision specs and directories.
        tasks: names and files.
        baselines: the folder of golden baselines.
        prompts: prompt pairs of each built-in task.
        part: how many solved prompts drift, gradients and repair use.
        ablation: kind that the gate compares.
        positions: positions at which baselines keep z.
        ablate_at: positions whose z an ablation replaces.
        metric: what is measured of a prompt.
        sweep: `exact`, or `screened` for models with many heads.
        memory: byte budget of the sweeps, as in `2GB`; None for a share of what is free.
        device: where models run, or `auto`.
        dtype: what saved candidates are loaded in; `auto` for as they were saved.
        download: candidates may be hub ids.
        allow_inconclusive: skip instead of fail.
        limits: overrides, as `circuitcheck.verdict.limits.limits_for` takes them.
        against_base: compare with the reference as it is measured in this run, not with the stored baselines.
        multiverse: repeat every verdict under other specifications.
        keep: search for what must stay in high precision where a candidate fails.
        accept: `new`, `changed`, `all`, or None to compare.
        reason: why.
        calibrate: measure the noise floor instead of comparing.
        command: the command that this run was, without what it was to do.
        report_command: a command that measures the same again.
    """

    report: bool = False
    report_dir: Path | None = None
    figures: Path | None = None
    compare: Path | None = None
    model: str = EMBEDDED
    candidates: tuple[str, ...] = DEFAULT_CANDIDATES
    tasks: tuple[str, ...] = TASKS
    baselines: Path = Path("baselines")
    prompts: int = 64
    part: int = 32
    ablation: str = "resample"
    positions: str = "all"
    ablate_at: str = "all"
    metric: str = "logit_difference"
    sweep: str = "exact"
    memory: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    download: bool = False
    allow_inconclusive: bool = False
    limits: dict[str, Any] = field(default_factory=dict)
    against_base: bool = False
    multiverse: bool = False
    keep: bool = False
    accept: str | None = None
    reason: str = ""
    calibrate: bool = False
    command: str = "pytest"
    report_command: str = "pytest --circuit-report"

    @property
    def writes_baselines(self) -> bool:
        """Whether the run writes golden baselines; then it compares nothing."""
        return self.calibrate or self.accept is not None


def read_settings(config: pytest.Config) -> Settings:
    """The settings of this run.

    Raises:
        ConfigurationError: an unknown key, or a value of the wrong type.
    """
    _require_own_configuration(config)
    file = _pyproject(config)
    table = _read_table(file)
    option = config.getoption
    base = file.parent
    return Settings(
        report=bool(_first(option("circuit_report"), table.get("report"), False)) or _writes_report(option, table),
        report_dir=_path(option("circuit_report_dir"), table.get("report-dir"), base, None),
        figures=_path(option("circuit_figures"), table.get("figures"), base, None),
        compare=Path(option("circuit_compare")) if option("circuit_compare") else None,
        model=option("circuit_model") or _model(table, base),
        candidates=tuple(
            option("circuit_candidate") or _entries(table, "candidates", base, PRECISIONS, DEFAULT_CANDIDATES)
        ),
        tasks=tuple(option("circuit_task") or _entries(table, "tasks", base, TASKS, TASKS)),
        baselines=_path(option("circuit_baselines"), table.get("baselines"), base, base / "baselines") or base,
        prompts=_first(option("circuit_prompts"), table.get("prompts"), 64),
        part=_first(option("circuit_part"), table.get("part"), 32),
        ablation=_first(option("circuit_ablation"), table.get("ablation"), "resample"),
        positions=_first(option("circuit_positions"), table.get("positions"), "all"),
        ablate_at=_first(option("circuit_ablate_at"), table.get("ablate-at"), "all"),
        metric=_first(option("circuit_metric"), table.get("metric"), "logit_difference"),
        sweep=_first(option("circuit_sweep"), table.get("sweep"), "exact"),
        memory=option("circuit_memory") or table.get("memory"),
        device=_first(option("circuit_device"), table.get("device"), "auto"),
        dtype=_first(option("circuit_dtype"), table.get("dtype"), "auto"),
        download=bool(_first(option("circuit_download"), table.get("download"), False)),
        allow_inconclusive=bool(_first(option("circuit_allow_inconclusive"), table.get("allow-inconclusive"), False)),
        limits=table.get("limits", {}),
        against_base=bool(_first(option("circuit_against_base"), table.get("against-base"), False)),
        multiverse=bool(_first(option("circuit_multiverse"), table.get("multiverse"), False)),
        keep=bool(_first(option("circuit_keep"), table.get("keep"), False)),
        accept=option("circuit_accept"),
        reason=(option("circuit_reason") or "").strip(),
        calibrate=bool(option("circuit_calibrate")),
        command=_command(config),
        report_command=_report_command(config),
    )


def _pyproject(config: pytest.Config) -> Path:
    """The file that pytest was configured from, or else the nearest one above the working directory."""
    inipath = config.inipath
    if inipath is not None and inipath.name == "pyproject.toml":
        return inipath
    here = config.invocation_params.dir
    return _nearest_pyproject(here) or here / "pyproject.toml"


def _nearest_pyproject(start: Path) -> Path | None:
    files = (folder / "pyproject.toml" for folder in (start, *start.parents))
    return next((file for file in files if file.is_file()), None)


def _require_own_configuration(config: pytest.Config) -> None:
    """Refuses a run that lost its pytest settings.

    pytest looks for its settings before it knows our options, and takes the existing path in `--circuit-model PATH` for
    a test path. Where that lies outside the project, testpaths and filters would silently be gone.
    """
    nearest = _nearest_pyproject(config.invocation_params.dir)
    chosen = config.getoption("inifilename", default=None) or config.getoption("rootdir", default=None)
    if chosen or nearest is None or nearest == config.inipath or "[tool.pytest" not in nearest.read_text("utf-8"):
        return
    arguments = list(config.invocation_params.args)
    for option, value in pairwise(arguments):
        if str(option).startswith("--circuit-") and "=" not in str(option) and Path(value).exists():
            raise ConfigurationError(
                f"pytest took {value} for a test path, and so missed its settings in {nearest}. "
                f"Write {option}={value}, with an equals sign."
            )


def _read_table(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} is not valid TOML: {error}") from error
    table = content.get("tool", {}).get("circuitcheck", {})
    if not isinstance(table, dict):
        raise ConfigurationError(f"{TABLE} in {file} is {table!r}, but must be a table: [{TABLE}].")
    unknown = sorted(set(table) - set(KEYS))
    if unknown:
        raise ConfigurationError(
            f"[{TABLE}] in {file}: unknown key(s) {', '.join(unknown)}; known are {', '.join(KEYS)}. "
            "Accepting is asked for on the command line only."
        )
    for key, value in table.items():
        is_wrong = not isinstance(value, KEYS[key]) or (KEYS[key] is int and isinstance(value, bool))
        if is_wrong or (isinstance(value, list) and not all(isinstance(item, str) for item in value)):
            raise ConfigurationError(f"[{TABLE}] in {file}: {key} is {value!r}, but must be {TYPE_NAMES[KEYS[key]]}.")
    return dict(table)


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _writes_report(option: Any, table: Mapping[str, Any]) -> bool:
    asked = (option("circuit_report_dir"), option("circuit_figures"), option("circuit_compare"))
    return any(asked) or any(table.get(key) for key in ("report-dir", "figures"))


def _path(given: str | None, configured: str | None, base: Path, default: Path | None) -> Path | None:
    if given:
        return Path(given)
    return base / configured if configured else default


def _model(table: Mapping[str, Any], base: Path) -> str:
    model = table.get("model", EMBEDDED)
    return str(base / model) if model != EMBEDDED and (base / model).is_dir() else str(model)


def _entries(
    table: Mapping[str, Any], key: str, base: Path, known: tuple[str, ...], default: tuple[str, ...]
) -> list[str]:
    """Entries of a list; files and folders beside the pyproject.toml become paths."""
    entries = table.get(key, default)
    return [str(base / entry) if entry not in known and (base / entry).exists() else entry for entry in entries]


def _command(config: pytest.Config) -> str:
    """The command that this run was, without candidates and without what it was to do."""
    parts = ["pytest"]
    if config.getoption("pyargs", default=False):
        parts += ["--pyargs", "circuitcheck.suite"]
    if config.getoption("circuit_model"):
        parts.append(f"--circuit-model={config.getoption('circuit_model')}")
    parts += [f"--circuit-task={task}" for task in config.getoption("circuit_task") or ()]
    for name in REPEATED:
        value = config.getoption(f"circuit_{name.replace('-', '_')}")
        if value:
            parts.append(f"--circuit-{name}={value}")
    return shlex.join(parts)


def _report_command(config: pytest.Config) -> str:
    parts = [f"--circuit-candidate={candidate}" for candidate in config.getoption("circuit_candidate") or ()]
    if config.getoption("circuit_dtype"):
        parts.append(f"--circuit-dtype={config.getoption('circuit_dtype')}")
    for name in ("against-base", "multiverse", "keep", "download"):
        if config.getoption(f"circuit_{name.replace('-', '_')}"):
            parts.append(f"--circuit-{name}")
    return f"{_command(config)} --circuit-report {shlex.join(parts)}".rstrip()
