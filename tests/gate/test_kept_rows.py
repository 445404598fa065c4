"""Finished rows on disk: found by everything that they depend on, whole or measured again."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_circuits
import tiny_models
from quick_recording import record

from circuitcheck.baseline.encoding import encode
from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.patch import Patch
from circuitcheck.core.runtime import Runtime, Work
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.kept_rows import KeptRows
from circuitcheck.gate.measure import measure
from circuitcheck.gate.parts import InParts, here
from circuitcheck.runtimes.pytorch.engine import dividing, sweep
from circuitcheck.runtimes.pytorch.hooked import HookedModel

SPEC = MeasurementSpec(draws=100)
CODE = {"code": "c" * 64, "torch": "2.13.0"}
REFERENCE = {"reference": "a" * 64}
PATCH = Patch("head", (((0, 0),), ((1, 2),)), "resample")


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return replace(tiny_models.tiny_model(), fingerprints={"weights": "a" * 64, "tokenizer": "none"})


@pytest.fixture(scope="module")
def task(model: HookedModel):
    return tiny_circuits.solvable_task(model, 12)


@pytest.fixture(autouse=True)
def a_part_for_each_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of several layers would be one part here, so few are they."""
    for module in (sweep, dividing):
        monkeypatch.setattr(module, "few_rows", lambda *_: 0)


class Kept:
    """A folder of rows with what was told of it, and what was really measured."""

    def __init__(self, folder: Path, code: dict[str, str] = CODE, threads: int = 1, left: int | None = None) -> None:
        self.told: Counter[str] = Counter()
        self.carried, self.left = 0, left
        rows = KeptRows(folder, code, lambda: threads, lambda word: self.told.update([word]))
        self.execute = InParts(rows, self._carry, least=1)

    def _carry(self, model: Runtime, patch: Patch, parts, work: Work):
        for number, part in enumerate(parts):
            if self.left is not None and self.carried >= self.left:
                raise KeyboardInterrupt
            self.carried += 1
            ((_, finished),) = here(model, patch, [part], work)
            yield number, finished

    def patched(self, model: HookedModel, task, patch: Patch = PATCH, **work) -> np.ndarray:
        return self.execute(model, task.prompts(), patch, Work(about=REFERENCE, **work))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "rows").rglob("*") if path.is_file())


def test_what_is_finished_is_not_measured_again(model, task, tmp_path):
    first, again = Kept(tmp_path / "kept"), Kept(tmp_path / "kept")
    whole = model.patched(task.prompts(), PATCH)
    rows: list[int] = []
    assert np.array_equal(first.patched(model, task), whole)
    assert np.array_equal(again.patched(model, task, advance=rows.append), whole)
    assert (first.carried, first.told) == (4, {"missing": 4})
    assert (again.carried, again.told) == (0, {"found": 4})
    assert sum(rows) == whole.size, "progress counts what was found"


def test_a_recording_that_is_stopped_anywhere_goes_on_to_the_same_baseline(model, task, tmp_path):
    ways = model.roundings()[:1]
    expected = encode(record(model, task, SPEC, roundings=ways))
    all_parts = Kept(tmp_path / "all")
    assert encode(record(model, task, SPEC, roundings=ways, execute=all_parts.execute)) == expected
    for number, left in enumerate((0, 1, 7, all_parts.carried - 1)):
        stopped, going_on = Kept(tmp_path / str(number), left=left), Kept(tmp_path / str(number))
        with pytest.raises(KeyboardInterrupt):
            record(model, task, SPEC, roundings=ways, execute=stopped.execute)
        assert encode(record(model, task, SPEC, roundings=ways, execute=going_on.execute)) == expected
        assert going_on.carried == all_parts.carried - left
        assert going_on.told["found"] == left


def test_a_candidate_that_was_measured_is_measured_from_its_rows(model, task, tmp_path):
    baseline = record(model, task, SPEC)
    candidate = tiny_circuits.scale_head(model, 1, 1, 3.0)
    candidate = replace(candidate, fingerprints={"weights": "b" * 64, "tokenizer": "none"}, precision="int8")
    first, again = Kept(tmp_path / "kept"), Kept(tmp_path / "kept")
    measured = measure(candidate, baseline, execute=first.execute)
    assert measured == measure(candidate, baseline)
    assert measured == measure(candidate, baseline, execute=again.execute)
    assert again.carried == 0 < first.carried


@pytest.mark.parametrize(
    "other",
    [
        lambda model, task: (replace(model, fingerprints={"weights": "b" * 64}), task, PATCH, {}),
        lambda model, task: (replace(model, precision="int8"), task, PATCH, {}),
        lambda model, task: (replace(model, batch_size=1), task, PATCH, {}),
        lambda model, task: (model.measured_by("log_probability"), task, PATCH, {}),
        lambda model, task: (model, replace(task, pairs=task.pairs[:-1]), PATCH, {}),
        lambda model, task: (model, task, replace(PATCH, sets=PATCH.sets[:1]), {}),
        lambda model, task: (model, task, replace(PATCH, values="zero"), {}),
        lambda model, task: (model, task, replace(PATCH, positions="answer"), {}),
        lambda model, task: (model, task, PATCH, {"memory": 2**30}),
        lambda model, task: (model, task, PATCH, {"about": REFERENCE | {"variation": "sdpa attention"}}),
        lambda model, task: (model, task, PATCH, {"about": REFERENCE | {"rounding": "4-bit: to nearest"}}),
    ],
)
def test_rows_are_found_by_all_that_they_depend_on(model, task, tmp_path, other):
    Kept(tmp_path / "kept").patched(model, task)
    changed, prompts, patch, work = other(model, task)
    kept = Kept(tmp_path / "kept")
    kept.execute(changed, prompts.prompts(), patch, Work(**({"about": REFERENCE} | work)))
    sets_of_last_layer_alone = len(patch.sets) == 1
    assert kept.told["found"] == (2 if sets_of_last_layer_alone else 0)
    another = Kept(tmp_path / "kept", threads=2)
    another.patched(model, task)
    assert set(another.told) == {"missing"}


def test_given_values_are_part_of_what_rows_depend_on(model, task, tmp_path):
    values = model.activations(task.prompts(), "head")
    patch = replace(PATCH, values=values)
    Kept(tmp_path / "kept").patched(model, task, patch)
    moved = replace(values, groups=tuple(group.copy() for group in values.groups))
    moved.groups[0][0, 0, 0] += 1
    same, other = Kept(tmp_path / "kept"), Kept(tmp_path / "kept")
    same.patched(model, task, replace(patch, values=replace(values, groups=tuple(map(np.copy, values.groups)))))
    other.patched(model, task, replace(patch, values=moved))
    assert (set(same.told), set(other.told)) == ({"found"}, {"missing"})


def test_a_metric_that_is_a_function_is_never_kept(model, task, tmp_path):
    kept = Kept(tmp_path / "kept")
    function = replace(model, quantity=replace(model.quantity, name="a:b", function=last_difference))
    kept.patched(function, task)
    assert (kept.carried, kept.told) == (1, {})
    assert not (tmp_path / "kept").exists()


def last_difference(output, ids, answer, foil):
    logits = output.logits[:, -1]
    return (logits.gather(1, answer[:, None]) - logits.gather(1, foil[:, None]))[:, 0]


def spoiled(content: bytes, how: str) -> bytes:
    digest, header, numbers = content.split(b"\n", 2)
    if how == "bit":
        return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
    if how == "note":
        return b"\n".join([digest, header.replace(b'"notes": []', b'"notes": ["all is well"]'), numbers])
    return {"cut": content[: len(content) // 2], "empty": b"", "long": content + bytes(2**20), "text": b"{}\n" * 9}[how]


@pytest.mark.parametrize("how", ["bit", "note", "cut", "empty", "long", "text", "folder", "pipe", "another"])
def test_what_is_not_whole_is_measured_again_and_replaced(model, task, tmp_path, how):
    folder = tmp_path / "kept"
    whole = Kept(folder).patched(model, task)
    victim, other = files(folder)[:2]
    good = victim.read_bytes()
    if how in ("folder", "pipe"):
        victim.unlink()
        victim.mkdir() if how == "folder" else os.mkfifo(victim)
    else:
        victim.write_bytes(other.read_bytes() if how == "another" else spoiled(good, how))
    kept = Kept(folder)
    if how == "folder":
        with pytest.raises(ConfigurationError, match=r"resume folder .*kept cannot be written to: "):
            kept.patched(model, task)
        return
    assert np.array_equal(kept.patched(model, task), whole)
    assert (kept.carried, kept.told) == (1, {"damaged": 1, "found": 3})
    assert victim.read_bytes() == good


def test_the_folder_of_other_weights_or_code_is_refused(model, task, tmp_path):
    folder = tmp_path / "kept"
    Kept(folder).patched(model, task)
    before = files(folder)
    with pytest.raises(ConfigurationError, match=r"has rows of torch 2\.13\.0, now 2\.14: none of them can be used"):
        Kept(folder, CODE | {"torch": "2.14"}).patched(model, task)
    with pytest.raises(ConfigurationError, match=r"has rows of reference aaaaaaaaaaaaaaaa, now bbbbbbbbbbbbbbbb"):
        Kept(folder).execute(model, task.prompts(), PATCH, Work(about={"reference": "b" * 64}))
    assert files(folder) == before


@pytest.mark.parametrize("content", ["", "[]", "{", '{"reference": 7}', '"' + "x" * 2**17])
def test_a_folder_whose_owner_cannot_be_read_is_refused(model, task, tmp_path, content):
    (tmp_path / "resume.json").write_text(content)
    with pytest.raises(ConfigurationError, match=r"resume\.json cannot be read|has rows of reference (7|unknown)"):
        Kept(tmp_path).patched(model, task)


def test_a_folder_with_other_things_in_it_is_refused(model, task, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ConfigurationError, match=r"has no resume\.json, and has thesis\.tex\. Give an empty folder"):
        Kept(tmp_path).patched(model, task)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_full_disk_is_said(model, task, tmp_path, monkeypatch):
    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    kept = Kept(tmp_path / "kept")
    kept.patched(model, task)
    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(ConfigurationError, match=r"cannot be written to: No space left on device\. Make room"):
        kept.patched(model, task, memory=2**30)


def test_a_folder_says_whose_it_is(model, task, tmp_path):
    Kept(tmp_path / "kept").patched(model, task)
    assert json.loads((tmp_path / "kept" / "resume.json").read_text()) == CODE | REFERENCE
