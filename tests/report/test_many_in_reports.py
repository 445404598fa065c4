"""Where damage is, and all of many units, in every medium: never a node for each of ten thousands."""

from __future__ import annotations

import re
from typing import Any

import pytest
from report_documents import make_document, many_run, placed_run

from circuitcheck.modelcard.block import render_block
from circuitcheck.report.charts.figures import figures
from circuitcheck.report.charts.style import drawing
from circuitcheck.report.damage_places import placed
from circuitcheck.report.html.page import render_html
from circuitcheck.report.markdown import render_markdown
from circuitcheck.report.population_rows import chosen
from circuitcheck.report.text import WIDTH, render_entries
from circuitcheck.report.words import what_broke

LAYERS, NEURONS = 12, 3072


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    made = make_document(layers=LAYERS, heads=4, candidates=("f16", "int4-rtn"), tasks=("ioi", "facts"))
    runs = made["runs"]
    neurons = [many_run(run, LAYERS, NEURONS) for run in runs]
    return made | {"runs": [*runs[:2], *(placed_run(run, LAYERS) for run in runs[2:]), *neurons], "expected_runs": 8}


def test_sentences_say_where_and_how_many(document):
    run, neurons = document["runs"][2], document["runs"][4]
    assert placed(run) == "it comes from mlp 11: repairing that alone leaves 4% of it"
    several = {**run["placing"], "culprits": ["mlp 11", "mlp 3", "attention 2", "mlp 1"], "left": 0.15}
    assert placed(run | {"placing": several}) == (
        "it comes from mlp 11, mlp 3, attention 2 and 1 more, of 24 modules: repairing these leaves 15% of it"
    )
    elsewhere = {**run["placing"], "culprits": [], "left": 0.6}
    assert "not even all modules leave less than 60% of it" in placed(run | {"placing": elsewhere})
    assert placed(run | {"verdict": "PASS"}) == placed(neurons) == "", "what passes has no damage to speak of"
    assert chosen(run) == ""
    assert chosen(neurons) == (
        "48 of 36,864 neurons were measured, those to which the reference's gradients point. Of the others 0 are "
        "estimated to matter (by at least 0.050 logits), 95 % interval 0 to 148, by 48 that were ablated at random."
    )
    assert "by module, the damage comes from mlp 11" in what_broke(run)


def test_a_terminal_shows_both_within_its_width(document):
    text = render_entries(document["runs"])
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "int4-rtn-ioi: damage: it comes from mlp 11" in text
    assert "48 of 36,864" in text
    assert "mlp 11 4%" in text
    assert "Most fragile neurons of int4-rtn" in text


def test_markdown_shows_both_and_stays_short(document):
    text = render_markdown(document, 20_000)
    assert len(text.encode()) <= 20_000
    assert "### Where the damage is" in text
    assert "mlp 11" in text
    assert "of 36,864 neurons were measured" in render_markdown(document, 500_000)


def test_the_page_has_a_table_and_histograms_and_no_map_of_neurons(document):
    page = render_html(document)
    assert len(page) < 3_000_000
    assert page.count("<path") + page.count("<use") < 20_000, "thousands of neurons have no node of their own"
    assert '"many":true' in page
    assert '"many":false' in page
    assert "How the drift of all 36,864 neurons is distributed." in page
    assert "What repairing each of 24 modules alone leaves of the damage" in page
    assert "what those explain is no bound on the damage" in page
    ids = re.findall(r"\sid=\"([^\"]+)\"", page)
    assert len(ids) == len(set(ids))


def test_figures_show_both(document):
    with drawing():
        names = [name for name, _ in figures(document)]
    assert "modules-int4-rtn" in names
    assert {"all-f16", "all-int4-rtn"} <= {*names}


def test_a_model_card_says_both(document):
    release = document | {"runs": [run for run in document["runs"] if run["candidate"] == "int4-rtn"]}
    block = render_block(release, "made-up")
    assert "Units (heads, neurons) are ablated in both" in block
    assert "of 36,864 neurons were measured" in block
    assert "Damage&#58; it comes from mlp 11" in block
