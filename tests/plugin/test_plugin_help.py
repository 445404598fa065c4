"""`pytest --help`."""

from __future__ import annotations

import re

from gate_runner import Gate

from circuitcheck.plugin.settings import OPTIONS


def group(text: str) -> str:
    """The plugin's own group of options."""
    _, _, rest = text.partition("circuit preservation (circuitcheck):\n")
    return re.split(r"\n(?=\S)", rest)[0]


def test_help_shows_every_option_in_its_own_group_with_a_help_text(gate: Gate) -> None:
    text = str(gate.run("--help").stdout)
    shown = group(text)
    options = re.split(r"\n  (?=--circuit-)", "\n" + shown)[1:]
    texts = {}
    for option in options:
        name, _, rest = option.partition("--circuit-")[2].partition(" ")
        texts[name.split("=")[0].split("\n")[0]] = re.sub(r"\s+", " ", option)
        assert rest.strip(), f"{name} has no help text"
    assert set(texts) == {option.flag.removeprefix("--circuit-") for option in OPTIONS if option.where != "table"}
    assert all(len(entry) > len(name) + 30 for name, entry in texts.items())
    assert text.count("--circuit-") == shown.count("--circuit-"), "an option stands outside the group"


def test_help_names_defaults_and_choices(gate: Gate) -> None:
    shown = re.sub(r"\s+", " ", group(str(gate.run("--help").stdout)))
    facts = ("{new,changed,all}", "{resample,mean,zero}", "attention heads (head)", "repeatable", "exit code 5")
    defaults = "(default: up to 128, as many as its words give)"
    for fact in (*facts, defaults, "(default: f32, f16, bf16, int8-sim)", "(default: half of what is free)"):
        assert fact in shown
