"""In which basis a candidate keeps its units: each sentence, and that all three media show it, escaped."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import synthetic_results as synthetic

from circuitcheck.core.people import INVISIBLE
from circuitcheck.report.coordinates import UNREAD, coordinates, how_read
from circuitcheck.report.document import document, failed_entry, run_entry
from circuitcheck.report.html.page import render_html
from circuitcheck.report.markdown import render_markdown
from circuitcheck.report.text import render_entries

CONCEPTS = Path(__file__).parents[2] / "docs" / "concepts.md"
LIMIT = 0.05
"""On the largest drift."""


def entry(unit: str = "head", task: str = "synthetic", limit: float = LIMIT, **changes: Any) -> dict[str, Any]:
    """A run of two units whose basis differs from the reference's in that."""
    circuit = synthetic.make_circuit(basis=synthetic.make_basis(**changes))
    measurement = synthetic.make_measurement(circuit, unit=unit, task=task)
    return run_entry(synthetic.make_verdict(measurement, drift_largest=limit))


def rotated(**changes: Any) -> dict[str, Any]:
    return {"changed": ("0.0", "0.1"), "largest_drift_z": 1.84, "largest_drift": 7e-7} | changes


def shown(entries: list[dict[str, Any]]) -> dict[str, str]:
    """What a reader sees of each medium, in one line."""
    report = document(entries)
    page = re.sub(r"<(script|style)\b.*?</\1>", "", render_html(report), flags=re.DOTALL)
    media = {
        "terminal": render_entries(entries),
        "markdown": unescape(re.sub(r"</?code>|<br>", "", render_markdown(report))),
        "page": unescape(re.sub(r"<[^>]+>", " ", page)),
    }
    return {medium: re.sub(r"\s+", " ", text) for medium, text in media.items()}


SENTENCES = (
    (
        rotated(),
        "2 of 2 heads are kept in other coordinates (z moved by up to 1.84) and write what the reference's do (drift "
        "up to 7e-07, at most 0.05 allowed): a change of basis, not of what is computed.",
    ),
    (
        rotated(changed=("0.1",)),
        "1 of 2 heads is kept in other coordinates (z moved by up to 1.84) and writes what the reference's does (drift "
        "up to 7e-07, at most 0.05 allowed): a change of basis, not of what is computed.",
    ),
    (
        rotated(largest_drift=0.4),
        "2 of 2 heads are kept in other coordinates (z moved by up to 1.84), and what they write moved by up to 0.4, "
        "where at most 0.05 is allowed: not a change of basis alone.",
    ),
    (
        rotated(largest_drift_z=float("inf"), largest_drift=float("inf")),
        "2 of 2 heads are kept in other coordinates (z moved without bound), and what they write moved without bound, "
        "where at most 0.05 is allowed: not a change of basis alone.",
    ),
    (
        {"renumbered": {"1.0": "1.1", "1.1": "1.0"}},
        "Heads are numbered otherwise: 1.0 is 1.1 here and 1.1 is 1.0; this report uses the reference's numbers.",
    ),
    (
        {"renumbered": {f"0.{number}": f"0.{number ^ 1}" for number in range(10)}},
        "Heads are numbered otherwise: 0.0 is 0.1 here, 0.1 is 0.0, 0.2 is 0.3, 0.3 is 0.2, 0.4 is 0.5, 0.5 is 0.4, "
        "0.6 is 0.7, 0.7 is 0.6 and so on for 2 more; this report uses the reference's numbers.",
    ),
    (
        {"source": "sketch"},
        "This model has neither an unembedding nor a token embedding that could be found: what heads write is read in "
        "random directions, and a rotated residual stream cannot be told from damage.",
    ),
    (
        {"source": "embedding"},
        "This model has no unembedding that could be found: what heads write is read through its token embedding, and "
        "not in logits.",
    ),
    (
        {"unread": 0.42},
        "Of what a head writes, up to 42% lies outside of what the reference's coordinates can say; fragility and the "
        "first-order damage leave that part out, drift does not.",
    ),
)


@pytest.mark.parametrize(("basis", "sentence"), SENTENCES)
def test_every_sentence_is_the_same_in_terminal_markdown_and_page(basis: dict[str, Any], sentence: str) -> None:
    run = entry(**basis)
    assert coordinates(run) == [sentence]
    assert {medium: text.count(sentence) for medium, text in shown([run]).items()} == dict.fromkeys(shown([run]), 1)


def test_sentence_of_the_documentation_is_the_reports() -> None:
    heads = tuple(synthetic.make_head(number // 8, number % 8) for number in range(32))
    basis = synthetic.make_basis(**rotated(changed=tuple(head.unit for head in heads)))
    measurement = synthetic.make_measurement(synthetic.make_circuit(basis=basis, units=heads))
    text = render_entries([run_entry(synthetic.make_verdict(measurement, drift_largest=1e-3))])
    line = next(part for part in text.split("\n\n") if part.startswith("basis: "))
    assert f"```text\n{line}\n```" in CONCEPTS.read_text(encoding="utf-8")


def test_page_always_says_how_it_was_read_and_the_others_only_what_differs() -> None:
    run = entry()
    assert coordinates(run) == []
    texts = shown([run])
    read = "Read in the reference's basis, at 64 tokens of the unembedding."
    assert how_read(run) == read
    assert read in texts["page"]
    assert "basis" not in texts["terminal"].lower()
    assert "basis" not in texts["markdown"].lower()
    assert how_read(entry(source="sketch", tokens=1024)).endswith("at 1,024 random directions.")


def test_change_of_basis_is_claimed_up_to_the_limit_of_the_run_and_never_without_one() -> None:
    claim = "not of what is computed"
    assert claim in coordinates(entry(limit=0.3, **rotated(largest_drift=0.3)))[0]
    assert claim not in coordinates(entry(limit=0.3, **rotated(largest_drift=0.301)))[0]
    unjudged = entry(**rotated(largest_drift=0.01)) | {"criteria": []}
    assert coordinates(unjudged)[0].endswith("(z moved by up to 1.84), and what they write moved by up to 0.01.")


def test_plain_rounding_leaves_too_little_unread_to_speak_of() -> None:
    assert coordinates(entry(unread=UNREAD)) == []
    assert "an unknown share lies outside" in coordinates(entry(unread=float("nan")))[0]


def test_units_are_called_what_they_are_but_labels_are_left_alone() -> None:
    run = entry("block", **rotated(), renumbered={"unit 1": "units 2"})
    changed, renumbered = coordinates(run)
    assert changed.startswith("2 of 2 blocks are kept")
    assert renumbered.startswith("Blocks are numbered otherwise: unit 1 is units 2 here; ")


def test_what_holds_for_every_task_is_said_once() -> None:
    renumbered = {"renumbered": {"1.0": "1.1", "1.1": "1.0"}}
    both = [entry(task="one", **renumbered), entry(task="two", **renumbered)]
    assert shown(both)["terminal"].count("Heads are numbered otherwise") == 1
    assert "numbers. (candidate-two)" in shown([entry(task="one"), both[1]])["terminal"]
    assert "numbers. (candidate on two)" in shown([entry(task="one"), both[1]])["markdown"]


def test_run_that_was_not_measured_says_nothing_of_a_basis() -> None:
    run = failed_entry("made-up", "broken", "ioi", "it could not be loaded")
    assert (how_read(run), coordinates(run)) == ("", [])
    assert "reference's basis" not in shown([run])["page"]


def test_no_label_of_a_renumbered_unit_is_obeyed() -> None:
    evil = "<img src=x onerror=alert(1)>\x1b[2J|`@all`\n# [a](b)"
    entries = [entry(renumbered={evil: f"1{evil}"}, source="<script>alert(2)</script>")]
    report = document(entries)
    terminal, markdown, page = render_entries(entries), render_markdown(report), render_html(report)
    assert INVISIBLE.search(terminal) is None
    assert "\n# [a]" not in terminal
    assert not re.search(r"<(?!/?code>|br>|/?details>|/?summary>)", markdown)
    assert "@" not in markdown.replace("&#64;", "")
    assert "<img" not in page
    assert "alert(2)</script>" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_drift_of_z_stands_beside_drift() -> None:
    units = (synthetic.make_head(0, 0, 4.0, 4.0, drift=0.011, drift_z=1.222), synthetic.make_head(0, 1))
    run = run_entry(synthetic.make_verdict(synthetic.make_measurement(synthetic.make_circuit(units=units))))
    line = next(line for line in render_entries([run]).splitlines() if " 0.0 " in line)
    assert re.split(r"\s{2,}", line.strip())[5:7] == ["0.011", "1.222"]
    assert "| 0.011 | 1.222 |" in render_markdown(document([run]))
    assert '"drift_z":[1.222,0.01]' in render_html(document([run]))
