"""What a run is to do: the command line over `[tool.circuitcheck]` over the defaults."""

from __future__ import annotations

import os
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from circuitcheck.errors import ConfigurationError
from circuitcheck.models.specs import EMBEDDED, PRECISIONS
from circuitcheck.plugin.sizes import parse_bytes

TASKS = ("ioi", "facts", "induction")
ABLATIONS = ("resample", "mean", "zero")
POSITIONS = ("all", "answer")
SWEEPS = ("exact", "screened")
DTYPES = ("auto", "f32", "f16", "bf16")
TABLE = "tool.circuitcheck"

KEYS: dict[str, type] = {
    "report": bool,
    "report-dir": str,
    "model": str,
    "candidates": list,
    "tasks": list,
    "baselines": str,
    "prompts": int,
    "ablation": str,
    "positions": str,
    "sweep": str,
    "memory": str,
    "device": str,
    "dtype": str,
    "allow-inconclusive": bool,
    "limits": dict,
}
"""Keys of `[tool.circuitcheck]` and their types."""

TYPE_NAMES = {bool: "true or false", str: "a string", list: "a list of strings", int: "a number", dict: "a table"}
"""What messages call them, in TOML's words."""


@dataclass(frozen=True)
class Settings:
    """One run's settings; every path is absolute or relative to the working directory.

    Attributes:
        report: print the tables and let the verdicts decide the exit code. Asked for on the command line, a run that
            compares nothing fails, whatever it collects; as a key of the table, it speaks of runs that collect the
            gate's tests, so that others may still be run alone.
        report_dir: where report.json goes.
        model: the reference.
        candidates: precision specs and directories.
        tasks: names and files.
        baselines: the folder of golden baselines.
        prompts: prompt pairs of each built-in task.
        ablation: kind that the gate compares.
        positions: positions at which baselines keep z.
        sweep: `exact`, or `screened` for models with many heads.
        memory: byte budget of the sweeps, as in `2GB`; None for a share of what is free.
        device: where models run, or `auto`.
        dtype: what saved candidates are loaded in; `auto` for as they were saved.
        allow_inconclusive: skip instead of fail.
        limits: overrides, as `circuitcheck.verdict.limits.limits_for` takes them.
        accept: `new`, `changed`, `all`, or None to compare.
        reason: why.
        command: the command that this run was, without accepting.
    """

    report: bool = False
    report_dir: Path | None = None
    model: str = EMBEDDED
    candidates: tuple[str, ...] = PRECISIONS
    tasks: tuple[str, ...] = TASKS
    baselines: Path = Path("baselines")
    prompts: int = 64
    ablation: str = "resample"
    positions: str = "all"
    sweep: str = "exact"
    memory: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    allow_inconclusive: bool = False
    limits: dict[str, Any] = field(default_factory=dict)
    accept: str | None = None
    reason: str = ""
    command: str = "pytest"


def read_settings(config: pytest.Config) -> Settings:
    """The settings of this run.

    Raises:
        ConfigurationError: an unknown key, a value of the wrong type, or options that contradict each other.
    """
    _require_own_configuration(config)
    file = _pyproject(config)
    table = _read_table(file)
    option = config.getoption
    base = file.parent
    settings = Settings(
        report=bool(_first(option("circuit_report"), table.get("report"), False)) or bool(_report_dir(option, table)),
        report_dir=_path(option("circuit_report_dir"), table.get("report-dir"), base, None),
        model=option("circuit_model") or _model(table, base),
        candidates=tuple(option("circuit_candidate") or _entries(table, "candidates", base, PRECISIONS)),
        tasks=tuple(option("circuit_task") or _entries(table, "tasks", base, TASKS)),
        baselines=_path(option("circuit_baselines"), table.get("baselines"), base, base / "baselines") or base,
        prompts=_first(option("circuit_prompts"), table.get("prompts"), 64),
        ablation=_first(option("circuit_ablation"), table.get("ablation"), "resample"),
        positions=_first(option("circuit_positions"), table.get("positions"), "all"),
        sweep=_first(option("circuit_sweep"), table.get("sweep"), "exact"),
        memory=option("circuit_memory") or table.get("memory"),
        device=_first(option("circuit_device"), table.get("device"), "auto"),
        dtype=_first(option("circuit_dtype"), table.get("dtype"), "auto"),
        allow_inconclusive=bool(_first(option("circuit_allow_inconclusive"), table.get("allow-inconclusive"), False)),
        limits=table.get("limits", {}),
        accept=option("circuit_accept"),
        reason=(option("circuit_reason") or "").strip(),
        command=_command(config),
    )
    _check(settings, config)
    return settings


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


def _report_dir(option: Any, table: Mapping[str, Any]) -> str | None:
    return option("circuit_report_dir") or table.get("report-dir")


def _path(given: str | None, configured: str | None, base: Path, default: Path | None) -> Path | None:
    if given:
        return Path(given)
    return base / configured if configured else default


def _model(table: Mapping[str, Any], base: Path) -> str:
    model = table.get("model", EMBEDDED)
    return str(base / model) if model != EMBEDDED and (base / model).is_dir() else str(model)


def _entries(table: Mapping[str, Any], key: str, base: Path, known: tuple[str, ...]) -> list[str]:
    """Entries of a list, all that are known by default; files and folders beside the pyproject.toml become paths."""
    entries = table.get(key, known)
    return [str(base / entry) if entry not in known and (base / entry).exists() else entry for entry in entries]


def _command(config: pytest.Config) -> str:
    parts = ["pytest"]
    if config.getoption("pyargs", default=False):
        parts += ["--pyargs", "circuitcheck.suite"]
    if config.getoption("circuit_model"):
        parts.append(f"--circuit-model={config.getoption('circuit_model')}")
    parts += [f"--circuit-task={task}" for task in config.getoption("circuit_task") or ()]
    for name in ("baselines", "prompts", "ablation", "positions", "sweep", "memory", "device"):
        if config.getoption(f"circuit_{name}"):
            parts.append(f"--circuit-{name}={config.getoption(f'circuit_{name}')}")
    return shlex.join(parts)


def _check(settings: Settings, config: pytest.Config) -> None:
    """Refuses what cannot be used before anything is loaded."""
    from circuitcheck.plugin.cases import Case
    from circuitcheck.verdict.limits import check_overrides

    check_overrides(settings.limits, where=f"[{TABLE}] limits")
    if settings.prompts < 1:
        raise ConfigurationError(f"prompts is {settings.prompts}, but must be at least 1.")
    for key, choices in (("ablation", ABLATIONS), ("positions", POSITIONS), ("sweep", SWEEPS), ("dtype", DTYPES)):
        if getattr(settings, key) not in choices:
            raise ConfigurationError(f"{key} is {getattr(settings, key)!r}, but must be one of {', '.join(choices)}.")
    if settings.memory is not None:
        parse_bytes(settings.memory)
    _refuse_twice("candidates", [Case(0, candidate, "").candidate_name for candidate in settings.candidates])
    _refuse_twice("tasks", [Case(0, "", task).task_name for task in settings.tasks])
    _check_candidates(settings.candidates)
    _check_tasks(settings.tasks)
    _check_model(settings)
    if settings.report_dir is not None and settings.report_dir.exists() and not settings.report_dir.is_dir():
        raise ConfigurationError(f"the report's directory {settings.report_dir} is a file; name a directory.")
    if settings.accept is not None:
        _check_accept(settings, config)
    elif settings.reason:
        raise ConfigurationError("--circuit-reason is for --circuit-accept only.")


def _refuse_twice(key: str, names: list[str]) -> None:
    if not names:
        raise ConfigurationError(f"no {key} are given, so nothing could be compared.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError(
            f"{key} {', '.join(twice)}: given twice, or two of one name. Their tests and reports could not be told "
            "apart; name each once, and rename files or directories that are called alike."
        )


def _check_candidates(candidates: tuple[str, ...]) -> None:
    unknown = [candidate for candidate in candidates if candidate not in PRECISIONS and not Path(candidate).is_dir()]
    if unknown:
        raise ConfigurationError(
            f"candidate {_listed(unknown)} is neither a precision ({', '.join(PRECISIONS)}) nor a directory seen from "
            f"{Path.cwd()}. Correct the spelling, or give the directory that the quantized model was saved to."
        )


def _check_tasks(tasks: tuple[str, ...]) -> None:
    unknown = [task for task in tasks if task not in TASKS and not (task.endswith(".jsonl") and Path(task).is_file())]
    if unknown:
        raise ConfigurationError(
            f"task {_listed(unknown)} is neither built in ({', '.join(TASKS)}) nor a .jsonl file seen from "
            f"{Path.cwd()}. Correct the spelling, or write the file: one prompt pair a line."
        )


def _check_model(settings: Settings) -> None:
    """A missing directory is said before its missing baselines; saved candidates are compared without the reference."""
    model = Path(settings.model).expanduser()
    if settings.model == EMBEDDED or model.is_dir():
        return
    is_needed = settings.accept is not None or any(candidate in PRECISIONS for candidate in settings.candidates)
    is_hub_id = settings.model.count("/") <= 1 and not settings.model.startswith((".", "/", "~"))
    if is_needed and (model.exists() or not is_hub_id):
        what = "is a file" if model.exists() else "does not exist"
        raise ConfigurationError(
            f"model directory {settings.model} {what}. Give the directory that the reference was saved to with "
            "save_pretrained, a hub id, or 'embedded'."
        )


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _check_accept(settings: Settings, config: pytest.Config) -> None:
    if not settings.reason:
        raise ConfigurationError(
            "--circuit-accept needs --circuit-reason TEXT: it is kept in the baseline for reviewers."
        )
    if config.getoption("dist", default="no") != "no" or hasattr(config, "workerinput"):
        raise ConfigurationError(
            "--circuit-accept writes golden baselines, so it never runs in parallel: leave out -n."
        )
    if os.environ.get("CI", "").lower() not in ("", "0", "false") and not config.getoption("circuit_accept_in_ci"):
        raise ConfigurationError(
            "--circuit-accept is refused where the environment variable CI is set, because a gate must not write what "
            "it is judged by. Accept at your desk and commit the baselines, or add --circuit-accept-in-ci."
        )
