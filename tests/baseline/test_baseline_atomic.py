"""Saving leaves either the new files or the old ones, and never anything else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import synthetic

from circuitcheck.baseline.atomic import write_atomically
from circuitcheck.baseline.baseline import Baseline
from circuitcheck.core.errors import BaselineError


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, hidden ones included."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def saved(tmp_path):
    synthetic.make_baseline(seed=0).save(tmp_path)
    return tmp_path


def failing(function, call: int, error: BaseException):
    """The function, but for one call."""
    calls = []

    def wrapped(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise error
        return function(*arguments)

    return wrapped


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
def test_failure_while_writing_leaves_the_old_files_alone(saved, monkeypatch, call, error):
    before = contents(saved)
    monkeypatch.setattr(os, "fsync", failing(os.fsync, call, error))
    expected = BaselineError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        synthetic.make_baseline(seed=1).save(saved)
    assert contents(saved) == before


def test_failure_while_renaming_leaves_the_old_files_alone(saved, monkeypatch):
    before = contents(saved)
    monkeypatch.setattr(Path, "replace", failing(Path.replace, 1, PermissionError(13, "Permission denied")))
    with pytest.raises(BaselineError, match=r"synthetic.json cannot be written: Permission denied\."):
        synthetic.make_baseline(seed=1).save(saved)
    assert contents(saved) == before


def test_failure_between_the_renames_leaves_a_pair_that_is_refused(saved, monkeypatch):
    monkeypatch.setattr(Path, "replace", failing(Path.replace, 2, OSError(5, "Input/output error")))
    with pytest.raises(BaselineError, match="cannot be written: Input/output error"):
        synthetic.make_baseline(seed=1).save(saved)
    assert sorted(contents(saved)) == ["synthetic.json", "synthetic.safetensors"]
    with pytest.raises(BaselineError, match="belongs to another recording"):
        Baseline.load(saved / "synthetic.json")


def test_target_is_never_seen_half_written(saved, monkeypatch):
    """When anything is flushed, the targets still hold what they held; only renames change them."""
    before, seen = contents(saved), []
    flush = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (seen.append(contents(saved)), flush(file)))
    synthetic.make_baseline(seed=1).save(saved)
    assert len(seen) == 2
    assert all(before.items() <= state.items() for state in seen)
    after = contents(saved)
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in before)


def test_json_is_renamed_last_because_it_vouches_for_the_arrays(tmp_path, monkeypatch):
    renamed = []
    rename = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, target: (renamed.append(Path(target).name), rename(path, target)))
    synthetic.make_baseline().save(tmp_path)
    assert renamed == ["synthetic.safetensors", "synthetic.json"]


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BaselineError, match=r"file.synthetic.json cannot be written: (Not a directory|File exists)"):
        synthetic.make_baseline().save(tmp_path / "file")
    assert contents(tmp_path) == {"file": b"in the way"}


def test_files_of_several_folders_are_written_together(tmp_path):
    files = {tmp_path / "a" / "one": b"1", tmp_path / "b" / "c" / "two": b"2"}
    write_atomically(files)
    assert {path: path.read_bytes() for path in files} == files
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["one", "two"]
