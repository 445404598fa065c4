"""Nothing writes to people but the functions that make their text safe."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "circuitcheck"
SAYS = {
    "write_line",
    "write_sep",
    "line",
    "fail",
    "skip",
    "exit",
    "UsageError",
    "CollectError",
    "warn",
    "print",
    "write",
}
"""Calls of pytest, its reporter, streams and warnings by which words reach a person."""

SAFE = {"visible", "plain", "plain_lines", "fail", "skip"}
EXEMPT = {
    "plugin/say.py: terminal.write_line(line)",  # workflow commands, which are to be obeyed
    "report/markdown.py: stream.write(separator + render_markdown(document, room).encode())",  # a file
    "baseline/atomic.py: stream.write(content)",
    "modelcard/__main__.py: sys.exit(main())",
}


def says(tree: ast.AST) -> list[ast.Call]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = [
        (call, call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)) for call in calls
    ]
    return [call for call, name in names if name in SAYS and not (isinstance(call.func, ast.Name) and name in SAFE)]


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
