"""Text for people: strangers' words are shown, and neither terminals nor services that read logs obey them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitcheck.core.errors import ModelError
from circuitcheck.core.people import INVISIBLE, plain, plain_lines, visible

OBEYED = re.compile(r"::|##(?:vso|teamcity)?\[", re.IGNORECASE)
HOSTILE = st.text(st.one_of(st.sampled_from(":#[\n\r\x1b\u202e\ud800 vsoVSO"), st.characters()), max_size=60)


@given(HOSTILE)
def test_no_text_holds_what_a_terminal_or_a_log_obeys(text: str) -> None:
    for shown in (visible(text), plain(text), plain_lines(text), str(ModelError(text))):
        assert not OBEYED.search(shown)
        assert not INVISIBLE.search(shown)
        assert visible(shown) == shown
        shown.encode("utf-8")
    assert "\n" not in plain(text)
    assert all(line.startswith("  ") for line in plain_lines(text).split("\n")[1:])


@pytest.mark.parametrize(
    "text",
    ["model in a/b", "[1, 2]", "a:b", "#3", "# [x]", "drift is 0.3 [0.2, 0.4]", "package.module:function", "é 中"],
)
def test_what_is_harmless_stays_as_it_is(text: str) -> None:
    assert visible(text) == plain(text) == plain_lines(text) == str(ModelError(text)) == text


def test_an_error_keeps_its_words_for_programs() -> None:
    assert ModelError("a\x1b[31m").args == ("a\x1b[31m",)
