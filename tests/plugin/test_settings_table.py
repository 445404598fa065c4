"""Options, keys, fields, defaults and the measurement specification are made from one table, and so agree."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from gate_runner import Gate

from circuitcheck.core.candidates import EMBEDDED
from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.specification import ABLATIONS, CHOICES, POSITIONS, SWEEPS, MeasurementSpec
from circuitcheck.plugin.configuration import read_settings
from circuitcheck.plugin.options import Option
from circuitcheck.plugin.settings import OPTIONS, TASKS, Settings
from circuitcheck.runtimes.pytorch import UNIT_KINDS
from circuitcheck.tasks.named import BUILT_IN

BY_NAME = {option.name: option for option in OPTIONS}
GIVEN: dict[str, Any] = {
    "report": True,
    "report_dir": "reports",
    "figures": "pictures",
    "model": "model",
    "candidates": ["bf16", "f16"],
    "tasks": ["facts.jsonl"],
    "units": ["block", "head"],
    "baselines": "golden",
    "against_base": True,
    "multiverse": True,
    "keep": True,
    "prompts": 9,
    "part": 7,
    "ablation": "zero",
    "metric": "log_probability",
    "ablate_at": "answer",
    "positions": "answer",
    "sweep": "screened",
    "memory": "2K",
    "device_map": "disk",
    "offload": "weights",
    "resume": "finished",
    "device": "cpu",
    "dtype": "bf16",
    "runtime": "pytorch",
    "download": True,
    "allow_inconclusive": True,
    "allow_incomplete": True,
    "limits": {"drift_median": 0.5},
}
"""Of every key a value that is not the default."""

CALLED = {"memory": 2048, "candidates": ("bf16", "f16"), "units": ("block", "head")}
"""Those that the settings hold otherwise than they are written; paths apart."""


def settings_of(gate: Gate, *arguments: str) -> Settings:
    return read_settings(gate.pytester.parseconfig(*arguments))


def test_every_key_reaches_the_settings(gate: Gate) -> None:
    assert set(GIVEN) == {option.name for option in OPTIONS if option.where != "command line"}
    gate.configure(**GIVEN)
    found = settings_of(gate)
    expected = GIVEN | CALLED | {"model": str(gate.path / "model"), "tasks": (str(gate.path / "facts.jsonl"),)}
    expected |= {key: gate.path / GIVEN[key] for key in ("report_dir", "figures", "baselines", "offload", "resume")}
    assert {name: getattr(found, name) for name in GIVEN} == expected


def test_every_option_reaches_the_settings_and_the_commands(gate: Gate) -> None:
    """Nothing is in the table here, so what is found was given on the command line, or is a default."""
    (gate.path / "pyproject.toml").unlink()
    given = {name: value for name, value in GIVEN.items() if BY_NAME[name].where == "everywhere"}
    arguments = [argument for name, value in given.items() for argument in written(BY_NAME[name], value)]
    found = settings_of(gate, *arguments)
    expected = given | CALLED | {"tasks": ("facts.jsonl",)}
    expected |= {key: Path(GIVEN[key]) for key in ("report_dir", "figures", "baselines", "offload", "resume")}
    assert {name: getattr(found, name) for name in given} == expected
    never = {argument for name in given if BY_NAME[name].repeated == "never" for argument in arguments_of(name)}
    again, command = shlex.split(found.report_command), shlex.split(found.command)
    assert sorted(again) == sorted({"pytest", *arguments, "--circuit-report"} - (never - {"--circuit-report"}))
    always = [argument for name in given if BY_NAME[name].repeated == "always" for argument in arguments_of(name)]
    assert sorted(command) == sorted(["pytest", *always])


def arguments_of(name: str) -> list[str]:
    return written(BY_NAME[name], GIVEN[name])


def written(option: Option, value: Any) -> list[str]:
    if value is True:
        return [option.flag]
    return [f"{option.flag}={entry}" for entry in (value if isinstance(value, list) else [value])]


def test_defaults_are_those_of_the_fields(gate: Gate) -> None:
    (gate.path / "pyproject.toml").unlink()
    assert settings_of(gate) == dataclasses.replace(Settings(), baselines=gate.path / "baselines")
    assert (Settings().model, Settings().tasks) == (EMBEDDED, TASKS)
    assert set(TASKS) == set(BUILT_IN)


def test_what_is_measured_is_what_the_settings_say() -> None:
    """Whatever settings and specification both name, with the same defaults and the same choices."""
    assert Settings().spec("head") == MeasurementSpec()
    shared = {field.name for field in dataclasses.fields(MeasurementSpec)} & set(BY_NAME)
    assert shared == {"part", "ablation", "positions", "ablate_at", "metric", "sweep"}
    spec = dataclasses.replace(Settings(), **{name: GIVEN[name] for name in shared}).spec("block")
    assert {name: getattr(spec, name) for name in shared} == {name: GIVEN[name] for name in shared}
    assert spec.unit == "block"
    assert BY_NAME["units"].parse is not None
    every = (*UNIT_KINDS, "feature:somewhere")
    assert BY_NAME["units"].parse(every) == every
    with pytest.raises(ValueError, match=", ".join(UNIT_KINDS)):
        BY_NAME["units"].parse(("none",))
    for name in shared & set(CHOICES):
        assert BY_NAME[name].choices == CHOICES[name]
    assert (ABLATIONS, POSITIONS, SWEEPS) == (("resample", "mean", "zero"), ("all", "answer"), ("exact", "screened"))


@pytest.mark.parametrize("name", CHOICES)
def test_a_specification_refuses_what_is_no_choice(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is 'none', but must be one of {', '.join(CHOICES[name])}"):
        MeasurementSpec(**{name: "none"})


def test_every_setting_is_described_and_every_field_but_the_commands_is_a_setting() -> None:
    assert [option.name for option in OPTIONS] == list(get_type_hints(Settings))[: len(OPTIONS)]
    assert {field.name for field in dataclasses.fields(Settings)} - set(BY_NAME) == {
        "file",
        "command",
        "report_command",
    }
    assert all(len(option.help) > 20 for option in OPTIONS)
