"""What the page holds, without a browser."""

from __future__ import annotations

import copy
import json
import re
from html import unescape
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_documents import ORDERS, make_document, make_run

from circuitcheck.report.charts.drawings import drift_places
from circuitcheck.report.charts.inline import VARIABLES, bound_chart, drift_chart, repair_chart
from circuitcheck.report.document import document as plain_document
from circuitcheck.report.document import failed_entry
from circuitcheck.report.html.colors import DARK, LIGHT, SIGNED_STEPS, UNSIGNED_STEPS, map_colors
from circuitcheck.report.html.columns import columns
from circuitcheck.report.html.page import render_html
from circuitcheck.report.numbers import estimate, interval, percent, short, thousands
from circuitcheck.report.words import MOST_TELLING, what_broke
from circuitcheck.verdict.criteria import BY_NAME

SVG = "{http://www.w3.org/2000/svg}"
EMPTY = (
    "repair",
    "bound",
    "ranking",
    "associations",
    "basis",
    "census",
    "noise",
    "multiverse",
    "keep",
    "metric_ref",
    "fingerprints",
)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return make_document()


def text_of(page: str) -> str:
    """The page's words, without scripts, styles and tags."""
    page = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


# --- one file, the same every time ---


def test_page_names_nothing_outside_itself(document):
    page = render_html(document)
    assert re.findall(r"(?:src|href)=\"(?!#|data:)([^\"]*)\"", page) == []
    assert "url(http" not in page
    assert "@import" not in page


def test_same_report_gives_the_same_bytes(document):
    assert render_html(document) == render_html(json.loads(json.dumps(document)))


def test_ids_are_unique_and_links_lead_somewhere(document):
    page = render_html(document)
    ids = re.findall(r"\sid=\"([^\"]+)\"", page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"href=\"#([^\"]+)\"", page)) <= set(ids)


def test_policy_allows_the_pages_own_script_alone(document):
    page = render_html(document)
    assert "default-src 'none'" in page
    assert re.search(r"script-src 'sha256-[\w+/=]{44}'", page)
    assert not re.search(r"<[^>]+\son\w+=", page)


# --- what stands in it ---


def test_every_run_has_a_verdict_in_the_grid_and_what_broke_is_said(document):
    page = render_html(document)
    assert page.count('class="verdict"') == 4
    said = text_of(page[page.index("What broke") : page.index("Open all runs")])
    assert "int4-rtn on ioi : The profile distance is 0.870 (must be at most 0.250); the importance of head" in said
    assert "int4-rtn on facts : The profile distance cannot be told from its limit: 0.230 [0.130, 0.330]" in said
    assert "f16 on" not in said


def test_all_sections_of_a_run_are_there(document):
    said = text_of(render_html(document))
    for title in (
        "Measures against their limits",
        "Fragility table",
        "Repair",
        "Are important heads more fragile?",
        "Bound audit",
        "Module census",
        "Noise floor",
        "Other specifications",
        "Keep in high precision",
        "Provenance",
        "Fingerprints",
    ):
        assert title in said
    assert document["command"] in said
    assert "w" * 64 in said
    assert "24 of 24 projections of its layers are quantized" in said


@pytest.mark.parametrize("empty", EMPTY)
def test_what_was_not_measured_is_said_and_not_shown_as_a_number(empty):
    document = make_document(2, 2, candidates=(), tasks=())
    document["runs"] = [make_run(np.random.default_rng(0), "broken", "ioi", "FAIL", layers=2, heads=2, prompts=4)]
    page = render_html({**document, "runs": [{**run, empty: None} for run in document["runs"]]})
    assert "None" not in text_of(re.sub(r"<pre.*?</pre>", "", page, flags=re.DOTALL))  # code to copy may say None
    without = render_html(
        {**document, "runs": [{k: v for k, v in run.items() if k != empty} for run in document["runs"]]}
    )
    assert text_of(without) == text_of(page)


def test_report_of_failures_alone_gives_the_reasons():
    entry = failed_entry("made-up", "broken", "ioi", "it could not be loaded")
    said = text_of(render_html(plain_document([entry], expected=2)))
    assert "broken on ioi : It could not be loaded." in said
    assert "INCOMPLETE. This report holds 1 of 2 expected runs" in said
    assert "Not measured." in said


def test_empty_report_is_no_pass():
    said = text_of(render_html(plain_document([])))
    assert "Nothing was compared." in said
    assert "✓" not in said


def test_changes_since_an_earlier_report_are_shown(document):
    changes = {
        "old": {"circuitcheck": "0.0.9", "complete": False, "libraries": {}},
        "same_environment": False,
        "runs": [
            {
                "candidate": "f16",
                "old_candidate": "f16-old",
                "task": "ioi",
                "unit": "head",
                "verdict": ["FAIL", "PASS"],
                "other": ["prompts"],
                "criteria": [
                    {
                        "name": "drift_median",
                        "value": [{"value": 0.5}, {"value": 0.25}],
                        "limit": [1, 1],
                        "verdict": ["FAIL", "PASS"],
                        "moved": True,
                    }
                ],
                "units": [{"unit": "1.2", "state": "mended", "importance": [{"value": 0.5}, {"value": 4.0}]}],
            }
        ],
        "removed": [{"candidate": "gone", "task": "ioi", "unit": "head", "verdict": "PASS"}],
    }
    said = text_of(render_html({**document, "compare": changes}))
    assert "was f16-old" in said
    assert "Drift, median 0.500 → 0.250 (FAIL → PASS)" in said
    assert "1.2 mended: 0.500 → 4.000" in said
    assert "gone on ioi is not in this run" in said
    assert "The earlier report is not complete." in said


def test_criteria_are_called_as_in_their_table_and_speak_of_the_kind_of_unit(document):
    said = unescape(text_of(render_html(document)))
    held = {judgement["name"] for run in document["runs"] for judgement in run["criteria"]}
    assert len(held) > 6
    for criterion in (BY_NAME[name] for name in held):
        assert f"{criterion.label.capitalize()} {criterion.explanation.replace('unit', 'head')}" in said
    runs = [run | {"unit": "block"} for run in document["runs"]]
    said = text_of(render_html({**document, "runs": runs}))
    assert "how far what the median block writes has moved" in said
    assert "ioi (blocks)" in said
    assert "Are important blocks more fragile?" in said
    assert "the importance of block " in said
    assert set(MOST_TELLING) < set(BY_NAME)


def test_word_of_the_page_is_that_of_the_gate(document):
    passed = {**document, "runs": document["runs"][:2], "expected_runs": 2}
    for changes, word in (
        ({}, "PASS"),
        ({"expected_runs": 3, "complete": False}, "INCOMPLETE"),
        ({"interrupted": True}, "INTERRUPTED"),
        ({"runs": document["runs"], "expected_runs": 4}, "FAIL"),
    ):
        assert f"<title>{word} ·" in render_html(passed | changes)


# --- escaping ---


@settings(deadline=None, max_examples=20)  # a page is some 0.1 s
@given(st.text(alphabet="<>&\"'/script$_{}%\u2028 ", min_size=1, max_size=20))
def test_text_of_the_report_is_escaped(text):
    entry = failed_entry(text, text, text, text) | {"notes": [text], "environment": {"device": text}}
    page = render_html(plain_document([entry]))
    # One <script> of the page's own, and none of the report's.
    assert page.count("<script") == 1
    assert len(re.findall("</script", page)) == 1


# --- numbers and words ---


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.0, "0"),
        (0.25, "0.250"),
        (-12.345, "-12.35"),
        (123.4, "123"),
        (0.00012, "1.2e-4"),
        (12345.0, "1.2e4"),
    ],
)
def test_numbers_are_short(value, shown):
    assert short(value) == shown


def test_intervals_shares_and_counts():
    assert interval([0.5, None]) == "[0.500, –]"
    assert interval([None, None]) == interval(None) == ""
    assert estimate({"value": 0.5, "interval": [0.25, 0.75]}) == "0.500 [0.250, 0.750]"
    assert estimate(None) == thousands(None) == percent(None) == "–"
    assert thousands(1179648) == "1,179,648"
    assert percent(0.984) == "98 %"


def test_sentence_names_the_most_telling_first_and_counts_the_rest(document):
    run = json.loads(json.dumps(document["runs"][2]))
    for criterion in run["criteria"]:
        criterion["verdict"] = "FAIL"
    sentence = what_broke(run)
    assert sentence.startswith("The profile distance is 0.870")
    assert "and the share of behaviour kept is" in sentence
    assert "FAIL in 8 of 8 measures" in sentence
    assert what_broke({"verdict": "FAIL", "message": ""}) == "Nothing was measured, and no reason was recorded."


# --- heads ---


def test_columns_keep_the_order_and_four_digits(document):
    run = document["runs"][2]
    table = columns(run)
    assert table is not None
    assert table["layer"] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert table["importance_ref"] == [float(f"{unit['importance_ref']['value']:.4g}") for unit in run["units"]]
    assert [run["units"][place]["unit"] for place in table["broken"]] == run["broken"]
    assert (table["order"][0], table["names"]) == (table["broken"][0], ["0", "1", "2", "3"])
    fragility = [table["fragility"][place] for place in table["order"][1:]]
    assert fragility == sorted(fragility, reverse=True)
    assert columns({"units": []}) is None


def test_columns_of_other_kinds_are_called_by_their_labels(document):
    run = json.loads(json.dumps(document["runs"][2])) | {"unit": "block", "broken": ["mlp 1"]}
    run["units"] = [unit for unit in run["units"] if unit["column"] < 2]
    for unit in run["units"]:
        unit["unit"] = f"{('attention', 'mlp')[unit['column']]} {unit['layer']}"
    table = columns(run)
    assert table is not None
    assert (table["names"], table["noun"], table["nouns"]) == (["attention", "mlp"], "block", "blocks")
    assert table["broken"] == table["order"][:1] == [3]


def test_scales_reach_to_the_limits(document):
    run = document["runs"][0]
    table = columns(run)
    assert table is not None
    assert table["scales"]["importance"] == pytest.approx(4.0, rel=0.1)  # the generator's most important head
    assert table["scales"]["drift"] == 0.8  # the limit, which no head reaches
    assert table["scales"]["fragility"] == pytest.approx(0.2 * 5.1)  # limit on metric change times the metric


def test_head_that_was_not_swept_is_drawn_as_unknown(document):
    run = json.loads(json.dumps(document["runs"][0]))
    for name in ("importance_ref", "importance_cand", "importance_change"):
        run["units"][3][name] = {"value": None, "interval": [None, None]}
    run["units"][3] |= {"rank_ref": None, "rank_cand": None}
    table = columns(run)
    assert table is not None
    assert table["importance_ref"][3] is None
    assert 3 not in drift_places(run)


# --- charts ---


def test_charts_are_drawn_in_the_pages_colours_with_a_point_a_head(document):
    run = document["runs"][2]
    for draw in (repair_chart, drift_chart, bound_chart):
        chart = draw(run, "key")
        assert chart is not None
        root = ElementTree.fromstring(chart)
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert "var(--ink)" in chart
        assert not any(colour in chart for colour in VARIABLES)
        assert "<style" not in chart
        assert all(one.startswith("key-") for one in re.findall(r"\sid=\"([^\"]+)\"", chart))
        assert set(re.findall(r"#(key-[\w-]+)", chart)) <= set(re.findall(r"\sid=\"([^\"]+)\"", chart))
    points = ElementTree.fromstring(drift_chart(run, "key") or "").find(f".//{SVG}g[@class='heads']")
    assert points is not None
    assert len(list(points.iter(f"{SVG}use"))) == 16


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 20)])
def test_drift_chart_has_a_point_a_head_at_every_size(size):
    run = make_document(*size)["runs"][0]
    points = ElementTree.fromstring(drift_chart(run, "key") or "").find(f".//{SVG}g[@class='heads']")
    assert points is not None
    drawn = [one for tag in ("use", "path") for one in points.iter(f"{SVG}{tag}")]
    inside_defs = [one for defs in points.iter(f"{SVG}defs") for one in defs.iter(f"{SVG}path")]
    assert len(drawn) - len(inside_defs) == size[0] * size[1] == len(drift_places(run))


def test_repair_chart_shows_the_informed_orders_over_the_random_band(document):
    chart = repair_chart(document["runs"][2], "key")
    assert chart is not None
    for order in (*ORDERS, "random, with band"):
        assert f">{order}</text>" in chart


def test_small_numbers_at_the_axes_keep_their_digits(document):
    run = json.loads(json.dumps(document["runs"][0]))
    for place, head in enumerate(run["units"]):
        head["drift"] = 0.001 * 1.2**place
    chart = drift_chart(run, "key") or ""
    assert {">0.001</text>", ">0.002</text>", ">0.005</text>"} <= set(re.findall(r">[\d.]+</text>", chart))


def test_heads_that_have_not_drifted_are_said_in_the_chart(document):
    run = json.loads(json.dumps(document["runs"][0]))
    for head in run["units"]:
        head["drift"] = 0.0
    assert ">no head has drifted</text>" in (drift_chart(run, "key") or "")
    run["units"][0]["drift"] = 0.1
    points = ElementTree.fromstring(drift_chart(run, "key") or "").find(f".//{SVG}g[@class='heads']")
    assert points is not None
    assert len(list(points.iter(f"{SVG}use"))) == 16


def test_there_is_no_chart_of_nothing():
    for run in ({"unit": "head"}, {"unit": "head", "units": [], "repair": None, "bound": None}):
        assert repair_chart(run, "key") is None
        assert drift_chart(run, "key") is None
        assert bound_chart(run, "key") is None
    nowhere = {"k": 1, "recovery": {"value": None, "interval": [None, None]}}
    undefined = {"unit": "head", "repair": {"curves": {"drift": [nowhere]}}}
    assert repair_chart(undefined, "key") is None
    assert (
        bound_chart({"bound": {"per_prompt": {"degradation": [0.0], "estimate": [0.0], "bound": [0.0]}}}, "key") is None
    )


# --- colours ---


def luminance(color: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    channels = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("maps", "sign"), [(LIGHT, -1), (DARK, 1)])
def test_colours_grow_stronger_from_zero_in_luminance_alone(maps, sign):
    steps = map_colors(maps)
    assert len(steps["s"]) == SIGNED_STEPS
    assert len(steps["u"]) == UNSIGNED_STEPS
    middle = SIGNED_STEPS // 2
    for scale in (steps["u"], steps["s"][middle:], steps["s"][middle::-1]):
        values = [sign * luminance(color) for color in scale]
        assert values == sorted(values)


def test_a_keep_list_in_vain_is_one_sentence_and_no_recipe(document):
    changed = copy.deepcopy(document)
    kept = next(run for run in changed["runs"] if run["keep"])
    message = "not even with all 35 projections in high precision does it pass (FAIL)"
    kept["keep"] |= {"modules": [], "verdict": "FAIL", "measured": 2, "message": message}
    kept["keep"] |= dict.fromkeys(("torchao", "compressed_tensors", "bitsandbytes"), "")
    changed["runs"] = [kept]
    text = text_of(render_html(changed))
    assert f"No set of projections was found that makes the verdict PASS (2 measurements): {message}." in text
    assert "For torchao" not in text
    assert "For torchao" in text_of(render_html(document))
