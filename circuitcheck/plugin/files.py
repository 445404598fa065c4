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

REPORTS = ("report.json", "report.md", "report.html")

Written = tuple[str, bool]
"""What to say of a file, and whether it could be written."""


def remove_reports(directory: Path, names: Sequence[str] = REPORTS) -> None:
    """Removes the reports of an earlier run, so that nobody takes them for those of a run that never comes to its end.

    Raises:
        ConfigurationError: they cannot be removed.
    """
    for file in (directory / name for name in names):
        try:
            if file.is_file():
                file.unlink()
        except OSError as error:
            raise ConfigurationError(f"the last report {file} cannot be removed: {error.strerror}.") from error


def run_document(
    settings: Settings, entries: Sequence[Entry], expected: int, *, interrupted: bool = False, failed: bool = False
) -> dict[str, Any]:
    """The run's report; where nothing was measured, its device is what was asked for."""
    from circuitcheck.report.document import document

    content = document(
        entries,
        expected,
        command=settings.report_command,
        settings=settings.file,
        old=settings.compare,
        interrupted=interrupted,
        failed=failed,
    )
    return content | {"environment": {"device": settings.device} | content["environment"]}


def write_files(settings: Settings, document: dict[str, Any]) -> list[Written]:
    """Writes what the settings ask for and, in a GitHub workflow, the step summary.

    Returns:
        A line for each file, and whether it could be written; what fails does not keep the others from being written,
        but none of them says PASS then.
    """
    reports = _report_files(settings, document)
    figures = _attempt(str(settings.figures), lambda: _figures(document, settings.figures)) if settings.figures else []
    written = [line for name, task in reports for line in _attempt(name, task)] + figures
    if not all(is_good for _, is_good in written):
        document = failed(document)
        for name, task in _report_files(settings, document):
            _attempt(name, task)
    if os.environ.get("GITHUB_STEP_SUMMARY"):
        written += _attempt("the step summary", lambda: _step_summary(document))
    return written


def failed(document: dict[str, Any]) -> dict[str, Any]:
    """The report of a run that failed for another reason than a verdict."""
    from circuitcheck.report.rows import outcome

    document = document | {"failed": True}
    return document | {"verdict": outcome(document).word}


def _report_files(settings: Settings, document: dict[str, Any]) -> list[tuple[str, Callable[[], list[Path]]]]:
    if settings.report_dir is None:
        return []
    files = [settings.report_dir / name for name in REPORTS]
    renderers = (_json, _markdown, _html)
    return [(str(file), _writer(file, render, document)) for file, render in zip(files, renderers, strict=True)]


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

        try:
            write_atomically({file: render(document).encode()})
        except OSError:
            if file.is_file():  # what an earlier attempt left, which says something else
                file.unlink()
            raise
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
