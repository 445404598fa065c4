"""Everything that a run leaves behind: report files, figures, and what a CI service shows."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.plugin.settings import Settings
from circuitcheck.report.fields import Entry

Written = tuple[str, bool]
"""What to say of a file, and whether it could be written."""


def run_document(
    settings: Settings, entries: Sequence[Entry], expected: int, *, interrupted: bool = False
) -> dict[str, Any]:
    """The run's report; where nothing was measured, its device is what was asked for.

    Raises:
        ConfigurationError: the report to compare with cannot be read.
    """
    from circuitcheck.report.compare import load_report
    from circuitcheck.report.document import document

    old = None if settings.compare is None else load_report(settings.compare)
    content = document(entries, expected, command=settings.report_command, old=old, interrupted=interrupted)
    return content | {"environment": {"device": settings.device} | content["environment"]}


def write_files(settings: Settings, document: dict[str, Any]) -> list[Written]:
    """Writes what the settings ask for and, in a GitHub workflow, the step summary.

    Returns:
        A line for each file, and whether it could be written; what fails does not keep the others from being written.
    """
    tasks: list[tuple[str, Callable[[], list[Path]]]] = []
    if settings.report_dir is not None:
        tasks += [
            (str(settings.report_dir / name), _writer(settings.report_dir / name, content, document))
            for name, content in (("report.json", _json), ("report.md", _markdown), ("report.html", _html))
        ]
    if settings.figures is not None:
        tasks.append((str(settings.figures), lambda: _figures(document, settings.figures)))
    if os.environ.get("GITHUB_STEP_SUMMARY"):
        tasks.append(("the step summary", lambda: _step_summary(document)))
    return [line for name, task in tasks for line in _attempt(name, task)]


def workflow_commands(settings: Settings, document: dict[str, Any]) -> list[str]:
    """Annotations of what failed, in a GitHub workflow; none elsewhere."""
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return []
    from circuitcheck.report.annotations import annotations

    return annotations(document, inconclusive_fails=not settings.allow_inconclusive)


def _attempt(name: str, task: Callable[[], list[Path]]) -> list[Written]:
    try:
        return [(f"wrote {file}", True) for file in task()]
    except (OSError, ConfigurationError) as error:
        return [(f"{name} could not be written: {getattr(error, 'strerror', None) or error}", False)]


def _writer(file: Path, render: Callable[[dict[str, Any]], str], document: dict[str, Any]) -> Callable[[], list[Path]]:
    def write() -> list[Path]:
        from circuitcheck.baseline.atomic import write_atomically

        write_atomically({file: render(document).encode()})
        return [file]

    return write


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _markdown(document: dict[str, Any]) -> str:
    from circuitcheck.report.markdown import render_markdown

    return render_markdown(document)


def _html(document: dict[str, Any]) -> str:
    from circuitcheck.report.html.page import render_html

    return render_html(document)


def _figures(document: dict[str, Any], directory: Path | None) -> list[Path]:
    from circuitcheck.report.charts.figures import draw_figures

    assert directory is not None
    files = draw_figures(document, directory)
    return [directory] if files else []


def _step_summary(document: dict[str, Any]) -> list[Path]:
    from circuitcheck.report.markdown import write_step_summary

    file = write_step_summary(document, os.environ)
    return [] if file is None else [file]
