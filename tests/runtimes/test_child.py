"""Functions that are called in a process of their own, which may end in any way."""

from __future__ import annotations

import pytest

from circuitcheck.core.errors import ModelError
from circuitcheck.runtimes.child import call_in_child


def test_what_it_returns_comes_back() -> None:
    assert call_in_child("child_functions:add", {"first": 2, "second": 3}, "it") == {"sum": 5}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("abort", r"model file x ends the process that reads it \(SIGABRT\): its last words were 'GGML_ASSERT\( \[31m"),
        ("exit", r"model file x ends the process that reads it \(exit code 3\): its last words"),
        ("error", r"^it is no model\.$"),
        ("other", r"KeyError: 'bad key'"),
    ],
)
def test_an_end_of_any_kind_is_an_error_here(how: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        call_in_child("child_functions:end", {"how": how}, "model file x")


def test_a_call_without_end_is_given_up() -> None:
    with pytest.raises(ModelError, match="model file x was not read in 2 seconds"):
        call_in_child("child_functions:end", {"how": "sleep"}, "model file x", seconds=2)


def test_memory_without_end_is_refused() -> None:
    with pytest.raises(ModelError, match="MemoryError"):
        call_in_child("child_functions:grow", {}, "model file x", memory=2**33)
