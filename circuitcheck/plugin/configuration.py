"""Reading a run's settings: the command line over `[tool.circuitcheck]` over the defaults."""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from difflib import get_close_matches
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
    _refuse_sections(config.inipath)
    file = _pyproject(config)
    table = _read_table(file)
    values = {option.name: option.value(option.given(config), table.get(option.key), file.parent) for option in OPTIONS}
    chosen = {option.name for option in OPTIONS if option.given(config) is not None or option.key in table}
    _require_chosen_candidates(chosen)
    suite = ("--pyargs", "circuitcheck.suite") if config.getoption("pyargs", default=False) else ()
    command = ("pytest", *suite, *_arguments(config, "always"))
    again = (*command, "--circuit-report", *_arguments(config, "to compare"))
    source = os.path.relpath(file, config.invocation_params.dir) if table else ""
    return Settings(**values, file=source, command=shlex.join(command), report_command=shlex.join(again))


def report_dir(config: pytest.Config) -> Path | None:
    """Where this run's reports shall lie, also of a run whose settings are refused; None where nobody says."""
    (option,) = (option for option in OPTIONS if option.name == "report_dir")
    if option.given(config):
        return Path(option.given(config))
    try:
        file = _pyproject(config)
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
    """The nearest file with our table: upwards from the one that pytest was configured from, or else from here.

    A nearer file without the table does not hide limits that stand further up. Without any table, the nearest file.
    """
    here, own = config.invocation_params.dir, config.inipath
    starts = [own.parent, here] if own is not None and own.name == "pyproject.toml" else [here]
    files = [file for start in starts for file in _pyprojects(start)]
    with_table = (file for file in files if _has_table(file))
    return next(with_table, files[0] if files else here / "pyproject.toml")


def _has_table(file: Path) -> bool:
    tool = _content_of(file).get("tool")
    return isinstance(tool, dict) and "circuitcheck" in tool


def _pyprojects(start: Path) -> list[Path]:
    """Those in a folder and in all above it, nearest first."""
    files = (folder / "pyproject.toml" for folder in (start, *start.parents))
    return [file for file in files if file.is_file()]


def _require_own_configuration(config: pytest.Config) -> None:
    """Refuses a run that lost its pytest settings.

    pytest looks for its settings before it knows our options, and takes the existing path in `--circuit-model PATH` for
    a test path. Where that lies outside the project, testpaths and filters would silently be gone.
    """
    nearest = next(iter(_pyprojects(config.invocation_params.dir)), None)
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


def _content_of(file: Path) -> dict[str, Any]:
    """What a TOML file says.

    Raises:
        ConfigurationError: it is no TOML, or has a table that was meant for us and would be passed over.
    """
    if not file.is_file():
        return {}
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} is not valid TOML: {error}") from error
    tables = [(name, name) for name in content]
    for name, table in content.items():
        if name.casefold() == "tool" and isinstance(table, dict):
            tables += [(f"{name}.{key}", key) for key in table]
    strange = [place for place, name in tables if place != TABLE and _looks_like_ours(name)]
    if strange:
        raise ConfigurationError(f"{file}: [{strange[0]}] looks like a table of circuitcheck; it is called [{TABLE}].")
    return content


def _refuse_sections(file: Path | None) -> None:
    """Refuses our tables in pytest's own kinds of files, where nobody would read them."""
    if file is None or file.name == "pyproject.toml":
        return
    sections = re.findall(r"^\s*\[([^\[\]]+)\]", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    strange = [name for name in sections if any(map(_looks_like_ours, re.split("[.:]", name)))]
    if strange:
        raise ConfigurationError(f"{file}: [{strange[0]}] is never read; move it to [{TABLE}] in a pyproject.toml.")


def _looks_like_ours(name: str) -> bool:
    letters = "".join(filter(str.isalpha, name.casefold()))
    return letters.startswith("circuitcheck") or bool(get_close_matches(letters, ["circuitcheck"], cutoff=0.85))


def _table_in(file: Path) -> dict[str, Any]:
    """Our table, unchecked."""
    table = _content_of(file)["tool"]["circuitcheck"] if _has_table(file) else {}
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
