"""Every leak that SECURITY.md names has the test that it names."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROW = re.compile(r"^\| .+ \| `(?P<file>\S+)::(?P<name>\w+)` \|$", re.MULTILINE)


def test_the_test_of_every_leak_exists() -> None:
    rows = list(ROW.finditer((TESTS.parent / "SECURITY.md").read_text("utf-8")))
    assert len(rows) > 8
    missing = [row["name"] for row in rows if f"\ndef {row['name']}(" not in (TESTS / row["file"]).read_text("utf-8")]
    assert not missing
