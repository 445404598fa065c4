"""The report in a pull request: valid Markdown whatever things are called, and never longer than GitHub takes."""

from __future__ import annotations

import copy
import html
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_reports import made_up_report, unmeasured_run
from markdown_it import MarkdownIt

from circuitcheck.core.people import INVISIBLE
from circuitcheck.report.compare import compare
from circuitcheck.report.escape import code, prose
from circuitcheck.report.markdown import COMMENT, SMALLEST, STEP_SUMMARY, render_markdown, write_step_summary

EVIL = ("a|b", "`rm`", "<script>", "@all #1", "$x$", "[a](b)", "**", "a\nb", "~~s~~", ":smile:", "\u202eabc", "&lt;")


def report(**changes) -> dict:
    known = {
        "layers": 4,
        "heads": 4,
        "candidates": ("f16", "int8"),
        "tasks": ("ioi", "facts"),
        "verdicts": {("int8", "ioi"): "FAIL", ("int8", "facts"): "INCONCLUSIVE"},
    }
    return made_up_report(**(known | changes))


def plain(markdown: str) -> str:
    """What a reader sees of a name or a sentence."""
    return html.unescape(re.sub(r"</?code>", "", markdown).replace("<br>", "\n"))


def tables(text: str) -> list[list[list[str]]]:
    """Cells of every table, as rendered."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    found: list[list[list[str]]] = []
    for place, token in enumerate(tokens):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("th_open", "td_open"):
            inline = tokens[place + 1]
            kinds = {child.type for child in inline.children or ()}
            assert kinds <= {"text", "text_special", "html_inline"}, (inline.content, kinds)
            found[-1][-1].append("".join(child.content for child in inline.children or () if "text" in child.type))
    return found


def test_grid_has_a_verdict_for_every_candidate_and_task():
    text = render_markdown(report())
    assert text.startswith("## Circuit gate: ❌ FAIL\n\n2 PASS, 1 FAIL, 1 INCONCLUSIVE.\n")
    assert tables(text)[0] == [
        ["candidate", "ioi", "facts"],
        ["f16", "✅ PASS", "✅ PASS"],
        ["int8", "❌ FAIL", "⚠️ INCONCLUSIVE"],
    ]


def test_whole_report_shows_every_criterion_and_every_head():
    document = report()
    text = render_markdown(document, STEP_SUMMARY)
    _, criteria, heads, associations, audits = tables(text)
    assert len(criteria) == 1 + 4
    assert criteria[0][:4] == ["candidate", "task", "profile distance", "ranking (ceiling)"]
    assert "0.900 ❌" in criteria[3]
    assert len(heads) == 1 + 4 * 16
    broken = [row[2] for row in heads if row[2].endswith("❌")]
    assert broken == [row[2] for row in heads[1:3]]
    assert associations[1] == ["f16", "ioi", *["-0.200; 0.050 [-0.050, 0.150] p 0.400"] * 3]
    assert audits[1] == ["f16", "ioi", "0.200", "0.180", "10%", "1.500", "7.500", "100% of prompts"]
    assert "left out" not in text
    assert "profile&#95;distance is 0.9, but must be &lt;" not in text  # entities are decimal
    assert "torch 2.13.0" in text
    assert "<code>pytest --circuit-report</code>" in text


def test_rows_all_have_the_width_of_their_header():
    for table in tables(render_markdown(report(), STEP_SUMMARY)):
        assert {len(row) for row in table} == {len(table[0])}


@pytest.mark.parametrize("limit", [SMALLEST, 2_000, 4_000, 8_000, 16_000, COMMENT, STEP_SUMMARY])
def test_no_report_is_longer_than_its_limit(limit: int):
    document = made_up_report(
        20, 20, tuple(f"release-{n}" for n in range(8)), ("ioi", "facts", "induction"),
        verdicts={("release-3", "facts"): "FAIL", ("release-4", "ioi"): "INCONCLUSIVE"},
    )  # fmt: skip
    text = render_markdown(document, limit)
    assert len(text.encode()) <= limit
    left_out = re.search(r"\*([\d,]+) rows were left out", text)
    shown = sum(len(table) - 1 for table in tables(text)) + text.count("\n- ")
    total = 8 + 2 + 8 * 3 + 8 * 3 * 400 + 2 * 8 * 3  # associations and audits
    assert shown + (int(left_out[1].replace(",", "")) if left_out else 0) == total
    if limit >= 4_000:
        # Most of the room is used: no row is longer than 500 bytes.
        assert left_out is None or len(text.encode()) > limit - 500


def test_what_fails_is_cut_last_and_the_least_fragile_heads_first():
    document = report(layers=12, heads=12)
    whole = render_markdown(document, STEP_SUMMARY)
    rows = tables(whole)[2][1:]
    fragility = {(row[0], row[1], row[2]): float(row[8]) for row in rows}
    previous = len(whole)
    for limit in range(1_400, len(whole.encode()), 1_500):
        text = render_markdown(document, limit)
        assert "| <code>int8</code> | ❌ FAIL" in text or limit < 1_400
        assert "profile&#95;distance is 0.9" in text
        kept = {tuple(row[:3]) for table in tables(text) if len(table[0]) == 10 for row in table[1:]}
        passing = [fragility[row] for row in kept if row[0] == "f16"]
        cut = [value for row, value in fragility.items() if row[0] == "f16" and row not in kept]
        if passing and cut:
            assert min(passing) >= max(cut)
        if any(row[0] == "f16" for row in kept):  # a passing head is kept only when every failing head is
            assert sum(row[0] == "int8" for row in kept) == 2 * 144
        assert len(text) <= len(whole)
        previous = len(text)
    assert previous > 1_000


def test_one_endless_message_is_cut():
    document = report()
    document["runs"].append(unmeasured_run("gone", "ioi", "x" * 1_000_000))
    assert "x" * 1_999 + "…" in render_markdown(document)
    assert "x" * 2_000 not in render_markdown(document)


def test_too_small_a_limit_is_refused():
    with pytest.raises(ValueError, match="1024"):
        render_markdown(report(), 1023)


@pytest.mark.parametrize("name", EVIL)
def test_a_name_never_breaks_a_table_or_does_anything(name: str):
    document = report(candidates=(name,), tasks=(name,), verdicts={(name, name): "FAIL"})
    document["runs"][0]["notes"] = [f"note {name}"]
    document["command"] = f"pytest '{name}'"
    text = render_markdown(document, STEP_SUMMARY)
    shown = INVISIBLE.sub(" ", name).replace("\n", " ")
    first = tables(text)[0]
    assert first[0] == ["candidate", shown.strip()]
    assert first[1][0] == shown.strip()
    assert not re.search(r"<(?!/?code>|br>|/?details>|/?summary>)", text)
    assert "@" not in text.replace("&#64;", "")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=40))
def test_escapes_show_the_text_itself(text: str):
    """In a paragraph, a list and a table: nothing but text comes out of the parser, and it is what went in."""
    expected = "\n".join(INVISIBLE.sub(" ", line).strip() for line in text.split("\n"))
    assert plain(prose(text)) == expected
    for frame in ("x {}", "- {}", "| a |\n| --- |\n| {} |"):
        tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(frame.format(prose(text)))
        inline = [token for token in tokens if token.type == "inline"]
        kinds = {child.type for token in inline for child in token.children or ()}
        assert kinds <= {"text", "text_special", "html_inline"}
        assert not {token.type for token in tokens} & {"heading_open", "hr", "blockquote_open", "code_block", "fence"}
    name = plain(code(text))
    assert name == (INVISIBLE.sub(" ", text).replace("\n", " ").strip() or "(no name)")


def test_searches_are_shown():
    document = report()
    rows = [{"ablation": "zero", "metric": "m", "ablate_at": "all", "verdict": "FAIL", "message": ""}]
    document["runs"][0]["multiverse"] = {"flips": 1, "of": 1, "specifications": rows}
    document["runs"][0]["keep"] = {"message": "too few"}
    text = plain(render_markdown(document, STEP_SUMMARY))
    assert "- f16 on ioi: the verdict flips under 1 of 1 specifications (zero/m/all: FAIL)\n" in text
    assert "- f16: no keep list: too few\n" in text


def test_blocks_are_called_blocks_and_kinds_stand_side_by_side():
    document = report()
    block = copy.deepcopy(document["runs"][0]) | {"unit": "block"}
    block["units"] = [unit | {"unit": f"mlp {unit['layer']}"} for unit in block["units"][::4]]
    document |= {"runs": [document["runs"][0], block]}
    text = render_markdown(document, STEP_SUMMARY)
    grid, criteria, units, *_ = tables(text)
    assert grid == [["candidate", "ioi", "ioi (blocks)"], ["f16", "✅ PASS", "✅ PASS"]]
    assert [row[1] for row in criteria[1:]] == ["ioi", "ioi (blocks)"]
    assert "### Units, most fragile first" in text
    assert ["ioi (blocks)", "mlp 3"] in [row[1:3] for row in units]
    document["runs"] = [block]
    assert "### Blocks, most fragile first" in render_markdown(document)


def test_interrupted_report_is_not_shown_as_passed():
    document = report(verdicts={}) | {"interrupted": True}
    assert render_markdown(document).startswith("## Circuit gate: ⚠️ INTERRUPTED\n\n4 PASS.")


def test_nothing_compared_is_no_pass():
    document = report()
    document["runs"], document["complete"] = [], False
    text = render_markdown(document)
    assert text.startswith("## Circuit gate: ⚠️ NONE\n\nnothing was compared.")


def test_incomplete_report_is_not_shown_as_passed():
    document = report(verdicts={})
    assert render_markdown(document).startswith("## Circuit gate: ✅ PASS")
    document |= {"complete": False, "expected_runs": 5}
    assert render_markdown(document).startswith("## Circuit gate: ⚠️ INCOMPLETE\n\n4 PASS, 1 of 5 not compared.")


def test_comparison_is_a_section():
    document = report()
    document["compare"] = compare(report(verdicts={}), document)
    text = render_markdown(document)
    assert "### Since the last release\n\n- <code>int8</code> on <code>ioi</code>: PASS -&#62; FAIL; " in text


# --- the step summary ---


def test_summary_is_appended_where_github_asks_for_it(tmp_path: Path):
    document = report()
    assert write_step_summary(document, {}) is None
    assert write_step_summary(document, {"GITHUB_STEP_SUMMARY": ""}) is None
    file = tmp_path / "new" / "summary.md"
    environ = {"GITHUB_STEP_SUMMARY": str(file)}
    assert write_step_summary(document, environ) == file
    assert file.read_text("utf-8") == render_markdown(document, STEP_SUMMARY)
    file.write_text("# Mine")
    write_step_summary(document, environ)
    assert file.read_text("utf-8") == "# Mine\n\n" + render_markdown(document, STEP_SUMMARY)


@pytest.mark.parametrize("size", [0, 1_000, STEP_SUMMARY - 5_000, STEP_SUMMARY - 500, STEP_SUMMARY + 10])
def test_summary_never_grows_beyond_githubs_limit(tmp_path: Path, size: int):
    file = tmp_path / "summary.md"
    file.write_bytes(b"x" * size)
    written = write_step_summary(report(layers=40, heads=40), {"GITHUB_STEP_SUMMARY": str(file)})
    after = file.read_bytes()
    assert after.startswith(b"x" * size)
    assert len(after) <= max(STEP_SUMMARY, size)
    assert (written is None) == (len(after) == size) == (size > STEP_SUMMARY - 1_024)


def test_document_is_left_as_it_was():
    document = report()
    before = copy.deepcopy(document)
    render_markdown(document)
    assert document == before
