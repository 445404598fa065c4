"""One headless browser for the folder, pages that report everything they complain of, and where screenshots go."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from report_documents import make_document

from circuitcheck.report.html.page import render_html

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Opened:
    """A page, and what it complained of or asked the network for."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def missing(what: str) -> None:
    """Skips at a desk; fails in CI, which sets one of these, because there nothing may be skipped in silence."""
    required = os.environ.get("CI") or os.environ.get("CIRCUITCHECK_AXE")
    (pytest.fail if required else pytest.skip)(what)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    executable = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if executable is None:
        missing("no chromium on PATH: install Debian's `chromium`")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        # Launching makes a profile directory of its own, and takes it away again.
        launched = playwright.chromium.launch(executable_path=executable, args=FLAGS, chromium_sandbox=False)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core: where CIRCUITCHECK_AXE says, or in node_modules beside the checkout."""
    named = os.environ.get("CIRCUITCHECK_AXE")
    candidates = [Path(named)] if named else []
    candidates += [parent / "node_modules/axe-core/axe.min.js" for parent in Path(__file__).resolve().parents]
    for file in candidates:
        file = file / "axe.min.js" if file.is_dir() else file
        if file.is_file():
            return file.read_text(encoding="utf-8")
    missing("no axe-core: `npm install axe-core`, and set CIRCUITCHECK_AXE to its axe.min.js")
    raise AssertionError("unreachable")


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that CIRCUITCHECK_SCREENSHOTS names, or one of pytest's own, to be looked at."""
    named = os.environ.get("CIRCUITCHECK_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two candidates on two tasks, one of them broken."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(render_html(make_document(layers=3, heads=6, prompts=8)), encoding="utf-8")
    return file


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Opened]]:
    """Opens a file in a window of some width and colour scheme; what was opened is closed after the test."""
    contexts = []

    def open_page(file: Path, width: int = 1280, scheme: str = "light") -> Opened:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce", offline=True
        )
        contexts.append(context)
        opened = Opened(context.new_page())
        opened.page.on("console", lambda message: opened.complaints.append(f"{message.type}: {message.text}"))
        opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.goto(file.as_uri())
        return opened

    yield open_page
    for context in contexts:
        context.close()
