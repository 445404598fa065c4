"""Nothing writes to people but the functions that make their text safe."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "circuitcheck"
SAYS = re.compile(
    r"pytest\.(fail|skip|exit|xfail|UsageError)|.*\.(CollectError|write_line|write_sep)|sys\.std(out|err)\.write|print|"
    r"warnings\.warn|.*log(ger)?\.(debug|info|warning|error|exception)"
)
"""Calls of pytest, its reporter, streams, warnings and logs by which words reach a person."""

SAFE = {"visible", "plain", "plain_lines"}
EXEMPT = {
    "plugin/say.py: terminal.write_line(line)",
    "merge/__main__.py: sys.stdout.write(f'{command}\\n')",
}
"""Workflow commands, which are to be obeyed."""


def says(tree: ast.AST) -> list[ast.Call]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if SAYS.fullmatch(ast.unparse(call.func))]


def is_safe(call: ast.Call) -> bool:
    """Whether what is said went through one of the functions."""
    return bool(call.args) and any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SAFE
        for node in ast.walk(call.args[0])
    )


def test_everything_that_is_said_goes_through_one_of_the_functions() -> None:
    found = {
        f"{file.relative_to(PACKAGE)}: {ast.unparse(call)}"
        for file in sorted(PACKAGE.rglob("*.py"))
        if "embedded" not in file.parts
        for call in says(ast.parse(file.read_text("utf-8")))
        if not is_safe(call)
    }
    assert found - EXEMPT == set()
