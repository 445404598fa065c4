"""Writes docs/api.md from the docstrings: `python docs/make_api.py`."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import griffe
from griffe2md import ConfigDict, render_object_docs

REPOSITORY = Path(__file__).parents[1]
TARGET = REPOSITORY / "docs" / "api.md"

OPENING = """\
# The Python API

<!-- Generated from the docstrings by docs/make_api.py; do not edit. -->

Everything here is imported from `circuitcheck`; a name brings in torch only when it is used. Shapes are in brackets,
 `[batch, seq, d_head]`; logits are differences of two logits, answer minus foil.
"""

REPORTS = """\
## Reports as files

These take the report as plain data, as `report.json` holds it (see [report.md](report.md)), and import no torch.
"""

REPORT_FUNCTIONS = (
    ("circuitcheck.report.document", "document"),
    ("circuitcheck.report.charts.figures", "draw_figures"),
    ("circuitcheck.report.markdown", "render_markdown"),
    ("circuitcheck.report.markdown", "write_step_summary"),
    ("circuitcheck.report.annotations", "annotations"),
    ("circuitcheck.report.compare", "load_report"),
    ("circuitcheck.report.compare", "compare"),
    ("circuitcheck.report.text", "render_comparison"),
    ("circuitcheck.modelcard.card", "update_card"),
)

DEAD_LINK = re.compile(r"\[((?:\*\*)?[\w.]+(?:\*\*)?)\]\(#[\w.]+\)")
"""A cross-reference to an anchor that a plain Markdown page does not have."""

CONFIG = ConfigDict(
    heading_level=3,
    show_root_heading=True,
    show_root_full_path=False,
    show_root_members_full_path=False,
    show_object_full_path=False,
    show_if_no_docstring=False,
    show_bases=True,
    show_signature=True,
    show_signature_annotations=False,
    separate_signature=True,
    line_length=110,
    signature_crossrefs=False,
    docstring_style="google",
    docstring_section_style="list",
    members_order="source",
    merge_init_into_class=True,
    summary=False,
    filters=["!^_"],
)


def public_names() -> list[tuple[str, str]]:
    """Module and name of everything that `circuitcheck` exports, in its order."""
    package = importlib.import_module("circuitcheck")
    homes = package._HOMES
    return [(homes[name], name) for name in package.__all__]


def render() -> str:
    """The whole page."""
    package = griffe.load("circuitcheck", search_paths=[REPOSITORY], docstring_parser="google", resolve_aliases=False)
    exported = [_entry(package, *home) for home in public_names()]
    reports = [_entry(package, *home) for home in REPORT_FUNCTIONS]
    text = "\n\n".join([OPENING, "## Measuring and judging", *exported, REPORTS, *reports])
    text = DEAD_LINK.sub(r"\1", "\n".join(line.rstrip() for line in text.splitlines()))
    return _formatted(re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")


def _entry(package: griffe.Object | griffe.Alias, module: str, name: str) -> str:
    found = package[module.removeprefix("circuitcheck.")][name]
    return f"{render_object_docs(found, CONFIG).strip()}\n\nDefined in `{module}`."


def _formatted(page: str) -> str:
    """The signatures as ruff writes them, which formats the code in Markdown too."""
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(TARGET), "-"]
    return subprocess.run(command, input=page, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
