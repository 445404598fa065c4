"""Which runtime a candidate's files run in."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from circuitcheck.core.candidates import split_variant
from circuitcheck.core.errors import ConfigurationError, ModelError
from circuitcheck.runtimes import choose as choosing
from circuitcheck.runtimes.choose import KINDS, RUNTIMES, RuntimeKind, Wanted, choose, load_candidate


@pytest.fixture
def kinds(monkeypatch):
    """A runtime that is installed and takes `.here` files, one that is not and takes `.gone` files, and PyTorch."""
    table = {
        "here": RuntimeKind(
            "Here", lambda wanted: wanted.path.suffix == ".here", f"{__name__}:load", ("json",), "here"
        ),
        "gone": RuntimeKind(
            "Gone", lambda wanted: wanted.path.suffix == ".gone", "none:load", ("gone_package",), "gone"
        ),
        "pytorch": KINDS["pytorch"],
    }
    monkeypatch.setattr(choosing, "KINDS", table)
    monkeypatch.setattr(choosing, "RUNTIMES", ("auto", *table))
    return table


@pytest.mark.parametrize(
    ("candidate", "parts"),
    [
        ("mine-Q8_0.gguf", ("mine-Q8_0.gguf", "")),
        ("a/mine.gguf@kv=q8_0", ("a/mine.gguf", "kv=q8_0")),
        ("mine.gguf@kv=", ("mine.gguf", "kv=")),
        ("a@b=c/mine", ("a@b=c/mine", "")),
        ("a@b=c.gguf", ("a@b=c.gguf", "")),
    ],
)
def test_a_variant_stands_behind_the_file(candidate: str, parts: tuple[str, str]) -> None:
    assert split_variant(candidate) == parts


def test_the_words_are_those_of_the_table() -> None:
    assert ("auto", *KINDS) == RUNTIMES
    assert KINDS["pytorch"].is_installed


def test_the_runtime_of_its_users_comes_first(kinds) -> None:
    assert choose(Wanted("model.here")) == (kinds["here"], ())
    assert choose(Wanted("directory")) == (kinds["pytorch"], ())
    assert choose(Wanted("model.here"), "pytorch") == (kinds["pytorch"], ())


def test_what_is_missed_without_it_is_said(kinds) -> None:
    kind, notes = choose(Wanted("model.gone"))
    assert kind is kinds["pytorch"]
    assert notes == (
        "It runs in PyTorch, because Gone is not installed: what Gone's kernels do is missed; install it with "
        'pip install "circuitcheck[gone]".',
    )


@pytest.mark.parametrize("asked", [{"dtype": "f16"}, {"device": "cuda:1"}])
def test_another_type_or_device_is_pytorchs(kinds, asked: dict[str, str]) -> None:
    kind, notes = choose(Wanted("model.here", **asked))
    assert kind is kinds["pytorch"]
    assert "because Here runs no other type and device than the file's own and the CPU's" in notes[0]
    with pytest.raises(ConfigurationError, match="runs in Here in its file's own types and on the CPU"):
        choose(Wanted("model.here", **asked), "here")
    assert choose(Wanted("model.here", device="cpu")) == (kinds["here"], ())


def test_one_that_cannot_be_had_is_refused(kinds) -> None:
    with pytest.raises(
        ModelError, match=r'candidate .model\.gone. in Gone needs gone: pip install "circuitcheck\[gone'
    ):
        choose(Wanted("model.gone"), "gone")
    with pytest.raises(ConfigurationError, match=r"candidate .model\.gone. is nothing that Here runs; leave out"):
        choose(Wanted("model.gone"), "here")
    with pytest.raises(ConfigurationError, match="runtime is 'jax', but must be one of auto, here, gone, pytorch"):
        choose(Wanted("model.gone"), "jax")


def test_no_fallback_for_what_pytorch_cannot_load(kinds, monkeypatch) -> None:
    """The error names what is missing, and not PyTorch."""
    monkeypatch.delitem(kinds, "pytorch")
    with pytest.raises(ModelError, match="in Gone needs gone"):
        choose(Wanted("model.gone"))


def test_a_loader_gets_what_is_wanted(kinds, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "made_up_loader", SimpleNamespace(load=lambda wanted: wanted))
    monkeypatch.setitem(kinds, "here", replace(kinds["here"], takes=lambda _: True, loader="made_up_loader:load"))
    found = load_candidate("mine.gguf@kv=q8_0", reference="model")
    assert found == Wanted("mine.gguf", "kv=q8_0", "model")
    monkeypatch.setitem(kinds, "gone", replace(kinds["gone"], takes=lambda _: True))
    monkeypatch.setattr(choosing, "KINDS", {"gone": kinds["gone"], "here": kinds["here"]})
    assert load_candidate("mine.gguf").notes == choose(Wanted("mine.gguf"))[1] != ()
