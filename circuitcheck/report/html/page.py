"""One self-contained page: styles, script, charts and numbers in one file that needs no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from jinja2 import ChainableUndefined, Environment, PackageLoader, Undefined
from markupsafe import Markup

from circuitcheck.core.people import visible
from circuitcheck.report import numbers, words
from circuitcheck.report.html import colors
from circuitcheck.report.html.view import view
from circuitcheck.report.rows import SHARES

MARKS = {"PASS": "✓", "FAIL": "✕", **dict.fromkeys(("INCONCLUSIVE", "INCOMPLETE", "INTERRUPTED", "NONE"), "?")}
"""Word to the sign that stands beside its word, so that colour is never alone."""

FILTERS: dict[str, Callable[..., str]] = {
    "short": numbers.short,
    "interval": numbers.interval,
    "estimate": numbers.estimate,
    "thousands": numbers.thousands,
    "percent": numbers.percent,
    "label": words.label,
    "explanation": words.explanation,
    "task": words.task_of,
}


def render_html(document: Mapping[str, Any]) -> str:
    """The report as one HTML page.

    Every text of the report is escaped, and a content security policy lets nothing run but the page's own script.
    What the report does not hold is said to be not measured. The same report gives the same bytes.

    Args:
        document: as `circuitcheck.report.document.document` gives it and report.json holds it.
    """
    script = _asset("report.js")
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            document=document,
            view=view(document),
            style=Markup(_asset("report.css")),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            light=colors.map_colors(colors.LIGHT),
            dark=colors.map_colors(colors.DARK),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("circuitcheck.report.html"),
        autoescape=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=ChainableUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters |= {name: _of_what_is_there(function) for name, function in FILTERS.items()}
    environment.globals |= {
        "MARKS": MARKS,
        "RELATIONS": words.RELATIONS,
        "DIAGNOSES": words.DIAGNOSES,
        "NOISE": words.NOISE,
        "SHARES": SHARES,
        "said_of": words.said_of,
    }
    return environment


def _of_what_is_there(function: Callable[..., str]) -> Callable[..., str]:
    """The filter, with None in place of what the report does not hold."""
    return lambda value, *others: function(None if isinstance(value, Undefined) else value, *others)


def _asset(name: str) -> str:
    return files("circuitcheck.report.html").joinpath("assets", name).read_text(encoding="utf-8")
