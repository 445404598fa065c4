"""What a setting is to pytest's command line, to `[tool.circuitcheck]`, and to whoever gave it a wrong value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import pytest

from circuitcheck.core.candidates import split_variant
from circuitcheck.core.errors import ConfigurationError

IN_TOML: dict[type, tuple[type, str]] = {
    bool: (bool, "true or false"),
    int: (int, "a number"),
    str: (str, "a string"),
    Path: (str, "a string"),
    tuple: (list, "a list of strings"),
    dict: (dict, "a table"),
}
"""Kind of setting to the type that TOML gives, and what messages call that."""

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """One setting; the field that it stands beside gives it its name, its kind and its default.

    A field `ablate_at` is the option `--circuit-ablate-at` and the key `ablate-at`; a tuple `tasks` is the repeatable
    option `--circuit-task` and the list `tasks`.

    Attributes:
        help: what `pytest --help` says of it, before its default.
        metavar: what stands for the value there; none where there are choices.
        choices: all values, or entries of a list, that it may have.
        least: the smallest number that it may be.
        paths_unless: set where values may be paths: the words that are none. What else the table names beside its
            pyproject.toml becomes a path from there.
        prefix: what may stand before a path, as in `feature:PATH`.
        parse: makes the field's value from the one that was given; raises ValueError saying what that must be.
        where: whether it can be given everywhere, only in the table, or, being what one run is to do, only on the
            command line.
        repeated: in which commands that users are told: all that continue the run, those that compare the same again,
            or none. What one run is to do is in none.
        without: what is meant where the option is given without a value; None where it needs one.
        kind: type of the value as it is given, where that is not the field's.
        name: of the field.
        default: of the field; a relative path starts where the pyproject.toml lies.
    """

    help: str
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    least: int | None = None
    paths_unless: tuple[str, ...] | None = None
    prefix: str = ""
    parse: Callable[[Any], Any] | None = None
    where: Literal["everywhere", "command line", "table"] = "everywhere"
    repeated: Literal["always", "to compare", "never"] = "always"
    without: str | None = None
    kind: type | None = None
    name: str = ""
    default: Any = None

    @property
    def key(self) -> str:
        """Its name in the table and in messages."""
        return self.name.replace("_", "-")

    @property
    def flag(self) -> str:
        """Its name on the command line, where a list is given one by one."""
        return "--circuit-" + (self.key.removesuffix("s") if self.kind is tuple else self.key)

    def given(self, config: pytest.Config) -> Any:
        """What the command line says; None where it says nothing."""
        return config.getoption(self.flag.removeprefix("--").replace("-", "_"), default=None)

    def add_to(self, group: pytest.OptionGroup) -> None:
        """Makes it an option of pytest, if it is one."""
        if self.where == "table":
            return
        if self.kind is bool:
            group.addoption(self.flag, action="store_true", default=None, help=self.help)
            return
        listed = ", ".join(self.default) if self.kind is tuple else self.default
        group.addoption(
            self.flag,
            action="append" if self.kind is tuple else "store",
            type=int if self.kind is int else str,
            choices=self.choices,
            metavar=self.metavar,
            **({"nargs": "?", "const": self.without} if self.without is not None else {}),
            help=self.help + (f" (default: {listed})" if listed else ""),
        )

    def arguments(self, config: pytest.Config) -> list[str]:
        """What repeats it on a command line; nothing of what was for one run only."""
        given = self.given(config) if self.where == "everywhere" else None
        if self.kind is bool:
            return [self.flag] if given else []
        values = given if isinstance(given, list) else [given]
        return [f"{self.flag}={value}" for value in values if value is not None]

    def require_type(self, value: Any, where: str) -> None:
        """Refuses what TOML cannot have meant.

        Raises:
            ConfigurationError: the value is of another type.
        """
        assert self.kind is not None
        kind, called = IN_TOML[self.kind]
        is_wrong = not isinstance(value, kind) or (kind is int and isinstance(value, bool))
        if is_wrong or (kind is list and not all(isinstance(item, str) for item in value)):
            raise ConfigurationError(f"{where}: {self.key} is {value!r}, but must be {called}.")

    def value(self, given: Any, configured: Any, folder: Path) -> Any:
        """What the field gets: the command line's value over the table's over the default.

        Args:
            given: on the command line; None where it was not.
            configured: in the table, likewise.
            folder: where the table's relative paths start.

        Raises:
            ConfigurationError: it cannot be used.
        """
        is_given = given is not None
        value = given if is_given else self.default if configured is None else configured
        if value is None:
            return None
        if is_given or configured is not None:
            self._require_filled(value)
        if self.kind is Path:
            value = Path(value) if is_given else folder / value
        elif self.kind is tuple:
            value = tuple(value if is_given else (self._beside(entry, folder) for entry in value))
        elif not is_given:
            value = self._beside(value, folder)
        return self._checked(value)

    def _require_filled(self, value: Any) -> None:
        """Refuses empty words: a variable that was not set must not mean what nobody gave."""
        words = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(word, str) and not word.strip() for word in words):
            raise ConfigurationError(f"{self.key} is given and empty. Give a value, or leave it out.")

    def _beside(self, value: Any, folder: Path) -> Any:
        """The path from here of what lies beside the pyproject.toml."""
        if self.paths_unless is None or value in self.paths_unless:
            return value
        path = value.removeprefix(self.prefix)
        is_path = (folder / split_variant(path)[0]).exists()
        return value.removesuffix(path) + str(folder / path) if is_path else value

    def _checked(self, value: Any) -> Any:
        if value == ():
            raise ConfigurationError(f"no {self.key} are given, so nothing could be compared.")
        for entry in value if self.kind is tuple else (value,):
            if self.choices is not None and entry not in self.choices:
                raise self._refusal(entry, f"one of {', '.join(self.choices)}")
        if self.least is not None and value < self.least:
            raise self._refusal(value, f"at least {self.least}")
        try:
            return value if self.parse is None else self.parse(value)
        except ValueError as error:
            raise self._refusal(value, str(error)) from error

    def _refusal(self, value: Any, needed: str) -> ConfigurationError:
        shown = str(value) if isinstance(value, Path) else repr(value)
        return ConfigurationError(f"{self.key} is {shown}, but must be {needed}.")


def option(default: T, help: str, **more: Any) -> T:
    """A field of a dataclass of settings.

    Args:
        default: its value where nobody gave one.
        help: what `pytest --help` says of it.
        more: as `Option` takes it.
    """
    # A factory, because the default of a table is a dict.
    found: T = field(default_factory=lambda: default, metadata={"option": Option(help, **more)})
    return found


def options_of(settings: type) -> tuple[Option, ...]:
    """The table of settings: what stands beside a dataclass's fields, in their order.

    Args:
        settings: a dataclass in which every field has a default.
    """
    hints, defaults = get_type_hints(settings), settings()
    return tuple(
        replace(
            option, name=field.name, kind=option.kind or _kind(hints[field.name]), default=getattr(defaults, field.name)
        )
        for field in fields(settings)
        if (option := field.metadata.get("option"))
    )


def _kind(hint: Any) -> type:
    """`Path` of `Path | None`, `tuple` of `tuple[str, ...]`."""
    if isinstance(hint, UnionType):
        hint = next(part for part in get_args(hint) if part is not NoneType)
    kind: type = get_origin(hint) or hint
    return kind
