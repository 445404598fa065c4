"""The picture of one head in two bases shows what docs/concepts.md says of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("make_basis_picture", DOCS / "make_basis_picture.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_turning_back_leaves_what_is_written_and_turning_once_does_not(script: ModuleType) -> None:
    another_basis, damage = script.drifts()
    assert another_basis == pytest.approx((1.53, 0.0), abs=0.005)
    assert damage == pytest.approx((1.53, 1.44), abs=0.005)
    assert "z has drifted by 1.53, what is written by 0." in (DOCS / "concepts.md").read_text(encoding="utf-8")


def test_picture_is_drawn_the_same_every_time(script: ModuleType) -> None:
    drawn = script.draw()
    assert drawn == script.draw()
    committed = script.TARGET.read_bytes()
    sizes = [ElementTree.fromstring(one).get("viewBox") for one in (drawn, committed)]
    assert sizes[0] == sizes[1]
