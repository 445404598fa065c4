"""What a run's settings must be together, and what must lie where they point, before anything is loaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from circuitcheck.baseline.names import baseline_file
from circuitcheck.core.candidates import EMBEDDED, GGUF, ONNX, PRECISIONS, is_hub_id, split_variant
from circuitcheck.core.errors import BaselineError, ConfigurationError, DictionaryError
from circuitcheck.core.phrases import extra_needed
from circuitcheck.plugin.cases import Case, cases_of
from circuitcheck.plugin.settings import TASKS, Settings, is_ci


def check(settings: Settings, config: pytest.Config) -> None:
    """Refuses what cannot be used before anything is loaded.

    Raises:
        ConfigurationError: names of nothing, or options that contradict each other.
    """
    for unit in settings.kinds:
        settings.spec(unit)
    _refuse_twice("candidates", [Case(0, candidate, "").candidate_name for candidate in settings.candidates])
    _refuse_twice("tasks", [Case(0, "", task).task_name for task in settings.tasks])
    _refuse_twice("units", list(settings.units))
    if settings.offload is not None and settings.device_map is None:
        raise ConfigurationError("offload names a folder for weights; say which lie there with --circuit-device-map.")
    _check_dictionaries(settings)
    _check_candidates(settings)
    _check_tasks(settings.tasks)
    _check_model(settings)
    _check_writing(settings, config)
    _check_shard(settings)
    _check_cluster(settings, config)


def _refuse_twice(key: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError(
            f"{key} {', '.join(twice)}: given twice, or two of one name. Their tests and reports could not be told "
            "apart; name each once, and rename files or directories that are called alike."
        )


def _check_dictionaries(settings: Settings) -> None:
    """A dictionary that cannot be read is said before anything runs; whether it fits the model, when that is loaded."""
    if settings.dictionaries:
        from circuitcheck.dictionaries.read import read_all

        try:
            read_all(settings.dictionaries)
        except DictionaryError as error:
            raise ConfigurationError(str(error)) from error


def _check_candidates(settings: Settings) -> None:
    unknown = [candidate for candidate in settings.candidates if not _is_candidate(candidate, settings.download)]
    if unknown:
        raise ConfigurationError(
            f"candidate {_listed(unknown)} is neither a precision ({', '.join(PRECISIONS)}), nor a directory, {GGUF} "
            f"or {ONNX} file seen from {Path.cwd()}. Correct the spelling, give the directory that the quantized model "
            "was saved to, or add --circuit-download for a hub id (owner/name)."
        )


def _is_candidate(candidate: str, download: bool) -> bool:
    path = Path(split_variant(candidate)[0])
    if candidate in PRECISIONS or not path.exists():
        return candidate in PRECISIONS or (download and is_hub_id(candidate))
    return path.is_dir() or path.name.endswith((GGUF, ONNX))


def _check_tasks(tasks: tuple[str, ...]) -> None:
    unknown = [task for task in tasks if task not in TASKS and not (task.endswith(".jsonl") and Path(task).is_file())]
    if unknown:
        raise ConfigurationError(
            f"task {_listed(unknown)} is neither built in ({', '.join(TASKS)}) nor a .jsonl file seen from "
            f"{Path.cwd()}. Correct the spelling, or write the file: one prompt pair a line."
        )
    for task in tasks:
        try:
            baseline_file(Path(), Case(0, "", task).task_name)
        except BaselineError as error:
            raise ConfigurationError(str(error)) from error


def _check_model(settings: Settings) -> None:
    """A missing directory is said before its missing baselines; saved candidates are compared without the reference."""
    model = Path(settings.model).expanduser()
    if settings.model == EMBEDDED or model.is_dir() or (settings.download and is_hub_id(settings.model)):
        return
    is_needed = settings.writes_baselines or any(candidate in PRECISIONS for candidate in settings.candidates)
    if is_needed or settings.against_base or settings.multiverse:
        what = "is a file" if model.exists() else "does not exist"
        raise ConfigurationError(
            f"model directory {settings.model} {what}. Give the directory that the reference was saved to with "
            "save_pretrained, or 'embedded', or add --circuit-download for a hub id (owner/name)."
        )


def _check_shard(settings: Settings) -> None:
    if settings.shard is None:
        return
    if settings.report_dir is None:
        raise ConfigurationError("--circuit-shard needs --circuit-report-dir DIR: its part is left there.")
    if settings.figures or settings.compare:
        raise ConfigurationError(
            "--circuit-shard does a part of a run, of which nothing whole can be drawn or compared: give --figures and "
            "--compare to python -m circuitcheck.merge."
        )
    settings.shard.of(cases_of(settings), by_circuit=settings.writes_baselines)


def _check_cluster(settings: Settings, config: pytest.Config) -> None:
    if settings.ray is None:
        return
    if find_spec("ray") is None:
        raise ConfigurationError(extra_needed("--circuit-ray", "ray"))
    if config.getoption("dist", default="no") != "no" or hasattr(config, "workerinput"):
        raise ConfigurationError("--circuit-ray has workers of its own, so it never runs in parallel: leave out -n.")
    from circuitcheck.cluster.pool import require_reachable

    require_reachable(settings.ray)


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
    if is_ci() and not settings.accept_in_ci:
        raise ConfigurationError(
            f"{option} is refused where the environment variable CI is set, because a gate must not write what it is "
            "judged by. Run it at your desk and commit the baselines, or add --circuit-accept-in-ci."
        )
