"""The page in a real browser: quiet, offline, usable by mouse and keyboard, at any width, in light and dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_documents import make_document, many_run, placed_run

from circuitcheck.report.html.page import render_html

SCHEMES = ("light", "dark")
WIDTHS = (1280, 360)
OPEN = "details.run[open]"


def shown_heads(page: Any) -> Any:
    """The open run, its maps made."""
    page.locator(f"{OPEN} [data-maps]").first.scroll_into_view_if_needed()
    page.locator(f"{OPEN} table.map").first.wait_for()
    return page.locator(OPEN).first


def names_of_rows(run: Any) -> list[str]:
    return run.locator("table.units tbody th button").all_inner_texts()


def column(run: Any, title: str) -> Any:
    return run.locator("table.units thead th", has_text=title).first


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_page_is_quiet_offline_and_no_wider_than_the_screen(
    visit: Any, report: Path, screenshots: Path, width: int, scheme: str
) -> None:
    opened = visit(report, width, scheme)
    page = opened.page
    page.screenshot(path=screenshots / f"first-{width}-{scheme}.png")
    shown_heads(page)
    page.locator("#open-all").click()
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    page.locator(f"{OPEN} [data-maps]").last.scroll_into_view_if_needed()
    page.locator(f"{OPEN} [data-maps]").last.locator("table.map").first.wait_for()
    page.locator(f"{OPEN} [data-place]").nth(7).click()
    page.screenshot(path=screenshots / f"whole-{width}-{scheme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.complaints == []
    assert opened.requests == [report.as_uri()]


def test_pointing_shows_a_head_in_every_map_and_clicking_pins_it(visit: Any, report: Path) -> None:
    page = visit(report).page
    run = shown_heads(page)
    panel = run.locator(".panel")
    first, second = run.locator("table.map").nth(0), run.locator("table.map").nth(3)
    first.locator("[data-place='3']").hover()
    assert "Head 0.3" in panel.inner_text()
    assert run.locator("table.map .looked").count() == 5
    second.locator("[data-place='8']").click()
    page.mouse.move(5, 5)
    assert "Head 1.2" in panel.inner_text()
    assert run.locator("table.map [aria-selected='true']").count() == 5
    assert "Pinned. Head 1.2" in page.locator("#announcer").inner_text()
    first.locator("[data-place='3']").hover()
    page.mouse.move(5, 5)
    assert "Head 1.2" in panel.inner_text(), "what is pinned comes back"
    panel.get_by_role("button", name="Unpin").click()
    assert run.locator("table.map [aria-selected='true']").count() == 0


def test_heads_are_read_and_pinned_by_keyboard(visit: Any, report: Path) -> None:
    page = visit(report).page
    run = shown_heads(page)
    panel = run.locator(".panel")
    run.locator("table.map").first.locator("[tabindex='0']").focus()
    for key, head in (
        ("ArrowRight", "0.1"),
        ("ArrowDown", "1.1"),
        ("End", "1.5"),
        ("ArrowRight", "1.5"),
        ("Home", "1.0"),
    ):
        page.keyboard.press(key)
        assert f"Head {head}" in panel.inner_text()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert "Head 0.0" in panel.inner_text(), "the edge holds"
    page.keyboard.press("Enter")
    assert run.locator("table.map [aria-selected='true']").first.get_attribute("data-place") == "0"
    assert "Pinned. Head 0.0" in page.locator("#announcer").inner_text()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")
    assert run.locator("table.map [aria-selected='true']").count() == 0
    assert run.locator("table.map").first.locator("[tabindex='0']").count() == 1, "one stop of the Tab key a map"


def test_points_of_the_drift_chart_are_heads(visit: Any, report: Path) -> None:
    page = visit(report).page
    run = shown_heads(page)
    points = run.locator("[data-drift] g.heads [data-place]")
    assert points.count() == 18
    points.nth(4).dispatch_event("click")
    assert "Head 0.4" in run.locator(".panel").inner_text()
    assert run.locator("[data-drift] .pinned").count() == 1


def test_table_names_broken_heads_first_and_sorts_by_mouse(visit: Any, report: Path) -> None:
    page = visit(report).page
    run = shown_heads(page)
    assert run.locator("table.units tbody tr").first.locator(".tag").inner_text() == "broken"
    drift = column(run, "Drift")
    drift.locator("button").click()
    assert drift.get_attribute("aria-sort") == "descending"
    falling = [float(text) for text in run.locator("table.units tbody td:nth-child(6)").all_inner_texts()]
    assert falling == sorted(falling, reverse=True)
    drift.locator("button").click()
    assert drift.get_attribute("aria-sort") == "ascending"
    assert "Sorted by Drift, smallest first" in page.locator("#announcer").inner_text()
    assert len(falling) == 12
    run.get_by_role("button", name="Show all 18 heads").click()
    rising = [float(text) for text in run.locator("table.units tbody td:nth-child(6)").all_inner_texts()]
    assert len(rising) == 18
    assert rising == sorted(rising)


def test_table_sorts_and_pins_by_keyboard(visit: Any, report: Path) -> None:
    page = visit(report).page
    run = shown_heads(page)
    head = column(run, "Head")
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert names_of_rows(run)[:3] == ["0.0", "0.1", "0.2"]
    page.keyboard.press("Space")
    assert names_of_rows(run)[:3] == ["2.5", "2.4", "2.3"]
    row = run.locator("table.units tbody button").first
    row.focus()
    page.keyboard.press("Enter")
    assert row.get_attribute("aria-pressed") == "true"
    assert "Head 2.5" in run.locator(".panel").inner_text()


def test_table_is_searched(visit: Any, report: Path) -> None:
    page = visit(report).page
    run = shown_heads(page)
    search = run.get_by_role("searchbox", name="Search heads")
    search.fill("2.")
    assert set(names_of_rows(run)) == {f"2.{head}" for head in range(6)}
    assert "6 heads found." in page.locator("#announcer").inner_text()
    search.fill("no such head")
    assert names_of_rows(run) == []
    search.fill("")
    assert len(names_of_rows(run)) == 12


def test_neurons_have_a_table_and_no_map(visit: Any, tmp_path: Path) -> None:
    document = make_document(layers=3, heads=6, candidates=("int4-rtn", "int3-rtn"), tasks=("ioi",))
    document["runs"] = [placed_run(many_run(run, 3, 3072), 3) for run in document["runs"]]
    file = tmp_path / "many.html"
    file.write_text(render_html(document), encoding="utf-8")
    opened = visit(file)
    page = opened.page
    page.locator(f"{OPEN} [data-table]").first.scroll_into_view_if_needed()
    page.locator(f"{OPEN} table.units").first.wait_for()
    run = page.locator(OPEN).first
    assert run.locator("table.map").count() == 0
    row = run.locator("table.units tbody button").first
    row.click()
    assert row.inner_text() in run.locator(".panel").inner_text()
    run.locator(".panel").get_by_role("button", name="Unpin").click()
    assert run.locator("table.units tr.pinned").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    assert opened.complaints == []


def test_links_of_the_grid_open_their_run(visit: Any, report: Path) -> None:
    page = visit(report).page
    assert page.locator(OPEN).count() == 1
    page.locator("a.verdict").first.focus()
    page.keyboard.press("Enter")
    page.locator("#run-0").wait_for(state="visible")
    assert page.locator(OPEN).count() == 2


def test_first_tab_leads_past_the_navigation(visit: Any, report: Path) -> None:
    page = visit(report).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the verdicts"
    assert page.locator(".skip").bounding_box()["x"] >= 0


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing_serious(visit: Any, report: Path, axe: str, width: int, scheme: str) -> None:
    page = visit(report, width, scheme).page
    run = shown_heads(page)
    run.locator("[data-place]").nth(4).click()
    page.evaluate("document.querySelectorAll('details:not(.run)').forEach((details) => { details.open = true; })")
    page.evaluate(f"{axe};0")
    found = page.evaluate("axe.run(document)")["violations"]
    serious = [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in ("serious", "critical")]
    assert serious == []


def test_hostile_names_run_nothing(visit: Any, tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=alert(1)><script>console.error('run')</script>'\"$x_$"
    document = make_document(2, 2, (f"a{hostile}", f"b{hostile}"), (hostile,), prompts=4)
    document["command"] = document["environment"]["device"] = document["runs"][0]["model"] = hostile
    for run in document["runs"]:
        run |= {"notes": [hostile], "message": hostile, "broken": [hostile]}
        run["units"][0]["unit"] = hostile
        run["criteria"][0]["message"] = run["repair"]["diagnosis"] = hostile
        run["basis"] |= {"renumbered": {hostile: hostile}, "source": hostile}
        run["census"]["claim"] = run["census"]["before"][0]["module"] = hostile
    file = tmp_path / "report.html"
    file.write_text(render_html(document), encoding="utf-8")
    opened = visit(file)
    shown_heads(opened.page)
    assert opened.complaints == []
    assert opened.requests == [file.as_uri()]
    assert opened.page.locator("img").count() == 0
    assert opened.page.locator(".candidate h2").first.inner_text().endswith(hostile)


def test_prints_what_is_open_on_white(visit: Any, report: Path, screenshots: Path) -> None:
    page = visit(report, 794, "dark").page
    page.pdf(path=screenshots / "report.pdf", format="A4")
    assert (screenshots / "report.pdf").stat().st_size > 20_000
    page.emulate_media(media="print")
    page.screenshot(path=screenshots / "print.png", full_page=True)
    assert page.locator(f"{OPEN} table.map").count() == 5, "printing made the maps that nobody had scrolled to"
    assert page.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(23, 27, 33)"
    assert not page.locator("nav").first.is_visible()
