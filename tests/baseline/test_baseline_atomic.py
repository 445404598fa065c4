"""Saving leaves either the new files or the old ones, and never anything else, however the writer ends."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import synthetic

from circuitcheck.baseline.atomic import COMMITTED, LOCK, write_atomically
from circuitcheck.baseline.baseline import Baseline, save_all
from circuitcheck.core.errors import BaselineError

STEPS = ("fsync", "replace", "unlink", "rmdir", "mkdir", "chmod")
"""What changes or flushes a folder; a writer is ended before each."""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, hidden ones included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def of_tasks(seed: int, *names: str) -> list[Baseline]:
    return [
        synthetic.make_baseline(seed=seed, task=synthetic.make_task(name=name), reason=f"seed {seed}") for name in names
    ]


def reasons(folder: Path) -> dict[str, str]:
    return {file.stem: Baseline.load(file).reason for file in folder.glob("*.json")}


@pytest.fixture
def saved(tmp_path):
    save_all(of_tasks(0, "one", "two"), tmp_path)
    return tmp_path


class End(BaseException):
    """What no writer catches."""


def ending(patch: pytest.MonkeyPatch, at: int, end: Callable[[], None]) -> list[str]:
    """Lets `end` happen before that step; returns the steps so far."""
    done: list[str] = []

    def wrapped(name: str, real):
        def step(*arguments, **options):
            done.append(name)
            if len(done) == at:
                end()
            return real(*arguments, **options)

        return step

    for name in STEPS:
        patch.setattr(os, name, wrapped(name, getattr(os, name)))
    return done


def raising(error: BaseException) -> Callable[[], None]:
    def end() -> None:
        raise error

    return end


def number_of_steps(folder: Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        done = ending(patch, 0, lambda: None)
        save_all(of_tasks(1, "one", "two"), folder)
    return len(done)


def test_a_writer_takes_steps(saved):
    """The tests below could not fail otherwise."""
    assert number_of_steps(saved) > 10


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
def test_failure_at_any_step_leaves_all_or_nothing(tmp_path, error):
    save_all(of_tasks(0, "one", "two"), tmp_path / "0")
    for step in range(1, number_of_steps(tmp_path / "0") + 1):
        folder = tmp_path / str(step)
        save_all(of_tasks(0, "one", "two"), folder)
        before = contents(folder)
        with pytest.MonkeyPatch.context() as patch:
            ending(patch, step, raising(error))
            with suppress(BaselineError, KeyboardInterrupt, MemoryError):
                save_all(of_tasks(1, "one", "two"), folder)
        if contents(folder) != before and not (folder / COMMITTED).exists():
            assert set(reasons(folder).values()) in ({"seed 0"}, {"seed 1"}), step
        save_all(of_tasks(2, "three"), folder)  # the next writer finishes or sweeps
        found = reasons(folder)
        assert found.pop("three") == "seed 2"
        assert found in ({"one": "seed 0", "two": "seed 0"}, {"one": "seed 1", "two": "seed 1"}), step
        assert len(contents(folder)) == 6, sorted(contents(folder))


def test_a_kill_at_any_step_leaves_all_or_nothing(tmp_path):
    save_all(of_tasks(0, "one", "two"), tmp_path / "0")
    outcomes = set()
    for step in range(1, number_of_steps(tmp_path / "0") + 1):
        folder = tmp_path / str(step)
        save_all(of_tasks(0, "one", "two"), folder)
        child = os.fork()
        if not child:
            with pytest.MonkeyPatch.context() as patch:
                ending(patch, step, lambda: os._exit(9))
                save_all(of_tasks(1, "one", "two"), folder)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        if not (folder / COMMITTED).exists():
            outcomes.add(tuple(sorted(reasons(folder).items())))
        save_all(of_tasks(2, "three"), folder)
        found = reasons(folder)
        assert found.pop("three") == "seed 2"
        outcomes.add(tuple(sorted(found.items())))
        assert len(contents(folder)) == 6, sorted(contents(folder))
    assert outcomes == {(("one", f"seed {seed}"), ("two", f"seed {seed}")) for seed in (0, 1)}


def test_what_a_killed_writer_did_not_put_in_place_is_refused_and_then_finished(saved, monkeypatch):
    """Two files are not one: after the first, the other still is of the old reference."""
    real = os.replace

    def kill_before_the_second(source, target):
        if str(target).endswith("two.json"):
            raise End
        real(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", kill_before_the_second)
        with pytest.raises(End):
            save_all(of_tasks(1, "one", "two"), saved)
    monkeypatch.setattr("circuitcheck.baseline.baseline.SECONDS", 0)
    for name in ("one", "two"):
        with pytest.raises(BaselineError, match="is one of several whose writer was killed") as caught:
            Baseline.load(saved / f"{name}.json")
        assert "Accept again, which finishes that first" in str(caught.value)
    save_all(of_tasks(2, "three"), saved)
    assert reasons(saved) == {"one": "seed 1", "two": "seed 1", "three": "seed 2"}


def test_failure_is_said_with_its_reason(saved, monkeypatch):
    before = contents(saved)
    monkeypatch.setattr(os, "replace", raising_always(PermissionError(13, "Permission denied")))
    with pytest.raises(BaselineError, match=r"synthetic.json cannot be written: Permission denied\."):
        synthetic.make_baseline(seed=1).save(saved)
    assert contents(saved) == before


def raising_always(error: BaseException):
    def fail(*arguments, **options):
        raise error

    return fail


def test_arrays_are_named_by_their_content_and_swept_when_nothing_names_them(tmp_path):
    first = synthetic.make_baseline(seed=0).save(tmp_path)
    again = synthetic.make_baseline(seed=0, reason="another reason").save(tmp_path)
    assert again == first, "the same arrays have the same name"
    second = synthetic.make_baseline(seed=1).save(tmp_path)
    assert second[1] != first[1]
    assert sorted(contents(tmp_path)) == sorted(file.name for file in second)


def test_arrays_of_a_json_that_cannot_be_read_are_kept(saved):
    (saved / "one.json").write_bytes(b"{")
    arrays = [name for name in contents(saved) if name.startswith("one.") and name.endswith(".safetensors")]
    save_all(of_tasks(1, "two"), saved)
    assert {*arrays} <= contents(saved).keys()


def test_what_is_not_ours_is_left_alone(saved):
    theirs = {"model.safetensors": b"weights", "one.safetensors": b"more", "notes.txt": b"text"}
    for name, content in theirs.items():
        (saved / name).write_bytes(content)
    save_all(of_tasks(1, "one", "two"), saved)
    assert theirs.items() <= contents(saved).items()


def test_leftovers_of_killed_writers_are_swept(saved):
    (saved / ".circuitcheck-abc").mkdir()
    (saved / ".circuitcheck-abc" / "one.json").write_bytes(b"half")
    (saved / LOCK).touch()
    (saved / f"gone.{'0' * 16}.safetensors").write_bytes(b"orphan")
    before = len(contents(saved))
    save_all(of_tasks(0, "one"), saved)
    assert len(contents(saved)) == before - 3


def test_several_are_all_or_nothing_where_one_cannot_be_kept(saved):
    before = contents(saved)
    good, bad = of_tasks(1, "one", "two")
    with pytest.raises(BaselineError, match=r"cannot be written: .*surrogates not allowed"):
        save_all([good, Baseline(**vars(bad) | {"reason": "\udc80"})], saved)
    assert contents(saved) == before


def test_what_could_not_be_read_again_is_not_written(saved):
    before = contents(saved)
    with pytest.raises(BaselineError, match=r"cannot be read: .*notes"):
        synthetic.make_baseline(notes=("long" * 10_000,)).save(saved)
    assert contents(saved) == before


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "../x", "a/b", "a\\b", "a\nb", "\x1b[31m", "x" * 151, "a\u202eb"]
)
def test_names_that_no_file_should_have_are_refused(tmp_path, name):
    with pytest.raises(BaselineError, match="no golden baseline can be called"):
        synthetic.make_baseline(task=synthetic.make_task(name=name)).save(tmp_path)
    assert not contents(tmp_path)


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BaselineError, match=r"file.synthetic.json cannot be written: (Not a directory|File exists)"):
        synthetic.make_baseline().save(tmp_path / "file")
    assert contents(tmp_path) == {"file": b"in the way"}


def test_a_folder_in_the_place_of_a_file_is_named_and_nothing_is_written(saved):
    (saved / "three.json").mkdir()
    before = contents(saved)
    with pytest.raises(BaselineError, match=r"three\.json cannot be written: Is a directory"):
        save_all(of_tasks(1, "one", "three"), saved)
    assert contents(saved) == before


def test_files_of_several_folders_are_written_each_as_a_whole(tmp_path):
    files = {tmp_path / "a" / "one": b"1", tmp_path / "b" / "c" / "two": b"2"}
    write_atomically(files)
    assert {path: path.read_bytes() for path in files} == files
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["one", "two"]


def test_a_renamed_baseline_is_refused(saved):
    for file in list(saved.glob("one.*")):
        file.rename(saved / file.name.replace("one.", "three."))
    with pytest.raises(BaselineError, match="was recorded of heads on the task 'one', and is called otherwise"):
        Baseline.load(saved / "three.json")


def test_json_is_replaced_last(tmp_path, monkeypatch):
    replaced = []
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda file, target: (replaced.append(Path(target).name), real(file, target)))
    written = synthetic.make_baseline().save(tmp_path)
    assert replaced == [written[1].name, written[0].name]
    assert json.loads(written[0].read_text())["arrays"]["bytes"] == written[1].stat().st_size
