"""How long the HTML report takes to write and to open, and how large it is, at several sizes.

Opening is measured in a headless chromium, with `pip install playwright`; without either, that part is left out and
said to be.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from report_documents import make_document

from circuitcheck.report.html.page import render_html

SIZES = {"small": (4, 8, 3, 3), "large": (32, 32, 4, 3)}
"""Name to layers, heads, candidates and tasks."""

TO_REACH = {"render_s": 10.0, "megabytes": 8.0}
"""Of the large one."""


def main() -> None:
    """Prints what was measured, and writes it to a file."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()
    results = {name: measure(*size, rounds=options.rounds) for name, size in SIZES.items()}
    print(json.dumps(results, indent=2))
    if options.json:
        options.json.write_text(json.dumps({"to_reach": TO_REACH, **results}, indent=2) + "\n", encoding="utf-8")


def measure(layers: int, heads: int, candidates: int, tasks: int, rounds: int) -> dict[str, Any]:
    """Seconds of the fastest and the slowest round, megabytes, and what the browser needed."""
    names = tuple(f"candidate-{number}" for number in range(candidates))
    report = make_document(layers, heads, names, tuple(f"task-{number}" for number in range(tasks)), prompts=64)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        page = render_html(report)
        seconds.append(time.perf_counter() - start)
    size = len(page.encode())
    return {
        "render_s": round(min(seconds), 3),
        "render_slowest_s": round(max(seconds), 3),
        "megabytes": round(size / 1e6, 3),
        "browser": opened(page, rounds),
    }


def opened(page: str, rounds: int) -> dict[str, float] | None:
    """Milliseconds that chromium is busy with opening the page, making one run's maps and sorting its table."""
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if executable is None:
        return None
    found: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "report.html"
        file.write_text(page, encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=executable, args=["--disable-gpu"], chromium_sandbox=False)
        for _ in range(rounds):
            found.append(_one_visit(browser, file))
        browser.close()
    return {key: min(one[key] for one in found) for key in found[0]}


def _one_visit(browser: Any, file: Path) -> dict[str, float]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    session = context.new_cdp_session(tab)
    session.send("Performance.enable")
    tab.goto(file.as_uri())
    tab.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    timing = tab.evaluate(
        "() => { const [t] = performance.getEntriesByType('navigation');"
        " const paint = performance.getEntriesByName('first-contentful-paint')[0];"
        " return { loaded: t.loadEventEnd, paint: paint ? paint.startTime : t.domInteractive }; }"
    )
    busy = (
        "(act) => { const start = performance.now(); act(); document.body.offsetHeight;"
        " return performance.now() - start; }"
    )
    # A run that was not on the screen yet.
    maps = tab.evaluate(f"({busy})(() => build([...document.querySelectorAll('[data-run]')].at(-1)))")
    sort = tab.evaluate(f"({busy})(() => [...runs.values()].at(-1).sort(COLUMNS[5]))")
    context.close()
    return {
        "first_paint_ms": round(timing["paint"], 1),
        "loaded_ms": round(timing["loaded"], 1),
        "script_ms": round(1e3 * metrics["ScriptDuration"], 1),
        "layout_and_style_ms": round(1e3 * (metrics["LayoutDuration"] + metrics["RecalcStyleDuration"]), 1),
        "all_maps_of_a_run_ms": round(maps, 1),
        "sort_ms": round(sort, 1),
    }


if __name__ == "__main__":
    main()
