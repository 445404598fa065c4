"""When Python looks for garbage."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

from circuitcheck.core.garbage import without_collecting

MODULE = "a_module_that_is_imported_in_a_test"


@pytest.fixture(autouse=True)
def nothing_is_frozen() -> Iterator[None]:
    """A gate that an earlier test ran in this process may have left something."""
    gc.unfreeze()
    yield
    sys.modules.pop(MODULE, None)
    gc.unfreeze()
    gc.enable()


def is_in(generation: int, made: object) -> bool:
    return any(other is made for other in gc.get_objects(generation))


@pytest.mark.parametrize("was_enabled", [True, False])
def test_nothing_is_collected_meanwhile(was_enabled: bool) -> None:
    (gc.enable if was_enabled else gc.disable)()
    with suppress(ImportError), without_collecting():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled() == was_enabled


def test_what_was_imported_is_old_afterwards() -> None:
    made = []
    with without_collecting():
        made.append([])
        sys.modules[MODULE] = sys
        assert is_in(0, made[0])
    assert is_in(2, made[0])
    assert gc.get_freeze_count() == 0


def test_nothing_else_is_made_old() -> None:
    with without_collecting():
        made: list[object] = []
    assert is_in(0, made)


def test_what_somebody_has_frozen_stays_frozen() -> None:
    gc.freeze()
    before = gc.get_freeze_count()
    with without_collecting():
        sys.modules[MODULE] = sys
    assert gc.get_freeze_count() == before > 0
