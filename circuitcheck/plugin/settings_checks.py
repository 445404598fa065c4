"""What a run's settings must be before anything is loaded."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from circuitcheck.core.candidates import EMBEDDED, GGUF, PRECISIONS
from circuitcheck.core.errors import ConfigurationError
from circuitcheck.plugin.settings import TABLE, TASKS, Settings
from circuitcheck.plugin.sizes import parse_bytes
from circuitcheck.report.compare import load_report

CHOICES = {
    "ablation": ("resample", "mean", "zero"),
    "positions": ("all", "answer"),
    "ablate-at": ("all", "answer"),
    "sweep": ("exact", "screened"),
    "dtype": ("auto", "f32", "f16", "bf16"),
}
METRICS = ("logit_difference", "log_probability")
FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check(settings: Settings, config: pytest.Config) -> None:
    """Refuses what cannot be used before anything is loaded.

    Raises:
        ConfigurationError: a value that is not known, or options that contradict each other.
    """
    from circuitcheck.plugin.cases import Case
    from circuitcheck.verdict.limits import check_overrides

    check_overrides(settings.limits, where=f"[{TABLE}] limits")
    if settings.prompts < 1:
        raise ConfigurationError(f"prompts is {settings.prompts}, but must be at least 1.")
    if settings.part < 1:
        raise ConfigurationError(f"part is {settings.part}, but must be at least 1.")
    for key, choices in CHOICES.items():
        value = getattr(settings, key.replace("-", "_"))
        if value not in choices:
            raise ConfigurationError(f"{key} is {value!r}, but must be one of {', '.join(choices)}.")
    if settings.metric not in METRICS and not FUNCTION.fullmatch(settings.metric):
        raise ConfigurationError(
            f"metric is {settings.metric!r}, but must be one of {', '.join(METRICS)}, or package.module:function."
        )
    if settings.memory is not None:
        parse_bytes(settings.memory)
    _refuse_twice("candidates", [Case(0, candidate, "").candidate_name for candidate in settings.candidates])
    _refuse_twice("tasks", [Case(0, "", task).task_name for task in settings.tasks])
    _check_candidates(settings)
    _check_tasks(settings.tasks)
    _check_model(settings)
    if settings.report_dir is not None and settings.report_dir.exists() and not settings.report_dir.is_dir():
        raise ConfigurationError(f"the report's directory {settings.report_dir} is a file; name a directory.")
    if settings.figures is not None and settings.figures.exists() and not settings.figures.is_dir():
        raise ConfigurationError(f"the figures' directory {settings.figures} is a file; name a directory.")
    if settings.compare is not None:
        load_report(settings.compare)
    _check_writing(settings, config)


def _refuse_twice(key: str, names: list[str]) -> None:
    if not names:
        raise ConfigurationError(f"no {key} are given, so nothing could be compared.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError(
            f"{key} {', '.join(twice)}: given twice, or two of one name. Their tests and reports could not be told "
            "apart; name each once, and rename files or directories that are called alike."
        )


def _check_candidates(settings: Settings) -> None:
    unknown = [candidate for candidate in settings.candidates if not _is_candidate(candidate, settings.download)]
    if unknown:
        raise ConfigurationError(
            f"candidate {_listed(unknown)} is neither a precision ({', '.join(PRECISIONS)}), nor a directory or {GGUF} "
            f"file seen from {Path.cwd()}. Correct the spelling, give the directory that the quantized model was saved "
            "to, or add --circuit-download for a hub id (owner/name)."
        )


def _is_candidate(candidate: str, download: bool) -> bool:
    path = Path(candidate)
    if path.exists():
        return path.is_dir() or candidate.endswith(GGUF) or candidate in PRECISIONS
    return candidate in PRECISIONS or (download and HUB_ID.fullmatch(candidate) is not None)


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


def _check_writing(settings: Settings, config: pytest.Config) -> None:
    if settings.reason and settings.accept is None:
        raise ConfigurationError("--circuit-reason is for --circuit-accept only.")
    if not settings.writes_baselines:
        return
    option = "--circuit-calibrate" if settings.calibrate else "--circuit-accept"
    if settings.calibrate and settings.accept is not None:
        raise ConfigurationError(
            "--circuit-accept and --circuit-calibrate both write baselines: do one after the other."
        )
    if settings.accept is not None and not settings.reason:
        raise ConfigurationError(
            "--circuit-accept needs --circuit-reason TEXT: it is kept in the baseline for reviewers."
        )
    if settings.against_base:
        raise ConfigurationError(f"{option} writes golden baselines, and --circuit-against-base does without them.")
    if config.getoption("dist", default="no") != "no" or hasattr(config, "workerinput"):
        raise ConfigurationError(f"{option} writes golden baselines, so it never runs in parallel: leave out -n.")
    if os.environ.get("CI", "").lower() not in ("", "0", "false") and not config.getoption("circuit_accept_in_ci"):
        raise ConfigurationError(
            f"{option} is refused where the environment variable CI is set, because a gate must not write what it is "
            "judged by. Run it at your desk and commit the baselines, or add --circuit-accept-in-ci."
        )
