"""Reading a run's settings: the command line over `[tool.circuitcheck]` over the defaults."""

from __future__ import annotations

import shlex
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.plugin.settings import OPTIONS, TABLE, Settings


def read_settings(config: pytest.Config) -> Settings:
    """The settings of this run.

    Raises:
        ConfigurationError: an unknown key, or a value that cannot be used.
    """
    _require_own_configuration(config)
    file = _pyproject(config)
    table = _read_table(file)
    values = {option.name: option.value(option.given(config), table.get(option.key), file.parent) for option in OPTIONS}
    chosen = {option.name for option in OPTIONS if option.given(config) is not None or option.key in table}
    _require_chosen_candidates(chosen)
    suite = ("--pyargs", "circuitcheck.suite") if config.getoption("pyargs", default=False) else ()
    command = ("pytest", *suite, *_arguments(config, "always"))
    again = (*command, "--circuit-report", *_arguments(config, "to compare"))
    return Settings(**values, command=shlex.join(command), report_command=shlex.join(again))


def report_dir(config: pytest.Config) -> Path | None:
    """Where this run's reports shall lie, also of a run whose settings are refused; None where nobody says."""
    (option,) = (option for option in OPTIONS if option.name == "report_dir")
    file = _pyproject(config)
    try:
        found = option.value(option.given(config), _table_in(file).get(option.key), file.parent)
    except (ConfigurationError, TypeError):
        return None  # what there is to say of it is said when all settings are read
    return found if isinstance(found, Path) else None


def _require_chosen_candidates(chosen: set[str]) -> None:
    """Refuses to compare a model that was named with candidates that nobody named: with copies of itself."""
    if "model" in chosen and not chosen & {"candidates", "accept", "calibrate"}:
        raise ConfigurationError(
            "a model is given and no candidate, so it would be compared with copies of itself. Name what is to be "
            "released: --circuit-candidate DIR_OR_PRECISION, or candidates in the table."
        )


def _arguments(config: pytest.Config, repeated: str) -> list[str]:
    return [argument for option in OPTIONS if option.repeated == repeated for argument in option.arguments(config)]


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


def _table_in(file: Path) -> dict[str, Any]:
    """What the file says, unchecked."""
    if not file.is_file():
        return {}
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} is not valid TOML: {error}") from error
    table = content.get("tool", {}).get("circuitcheck", {})
    if not isinstance(table, dict):
        raise ConfigurationError(f"{TABLE} in {file} is {table!r}, but must be a table: [{TABLE}].")
    return dict(table)


def _read_table(file: Path) -> dict[str, Any]:
    table = _table_in(file)
    known = {option.key: option for option in OPTIONS if option.where != "command line"}
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise ConfigurationError(
            f"[{TABLE}] in {file}: unknown key(s) {', '.join(unknown)}; known are {', '.join(known)}. "
            "Accepting is asked for on the command line only."
        )
    for key, value in table.items():
        known[key].require_type(value, f"[{TABLE}] in {file}")
    return table
