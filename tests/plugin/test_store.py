"""What the processes of a run share."""

from __future__ import annotations

from pathlib import Path

import pytest

from circuitcheck.plugin.store import Store


def test_what_is_kept_is_made_once(tmp_path: Path) -> None:
    store, made = Store(tmp_path), []

    def make() -> dict[str, object]:
        made.append(1)
        return {"modules": ["q"]}

    assert store.get_or_make("keep-0000", make) == store.get_or_make("keep-0000", make) == {"modules": ["q"]}
    assert len(made) == 1


def test_a_write_that_is_cut_off_leaves_nothing_that_another_process_could_read(tmp_path: Path) -> None:
    store, real = Store(tmp_path), Path.write_text

    def cut_off(file: Path, text: str, **options: str) -> None:
        real(file, text[: len(text) // 2], **options)
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_text", cut_off)
        with pytest.raises(OSError, match="No space left"):
            store.get_or_make("keep-0000", lambda: {"modules": ["q", "k"]})
    assert store.get_or_make("keep-0000", lambda: {"modules": ["v"]}) == {"modules": ["v"]}
