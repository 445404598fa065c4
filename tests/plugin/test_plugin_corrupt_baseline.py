"""A baseline that is not byte for byte what was recorded is refused, and stays as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import pytest
from gate_runner import Gate

CHANGED = "*was changed after it was recorded: by hand, by a merge, or by a line-ending conversion*"
CORRUPT = "*is truncated or corrupt. Restore it from version control, or accept it anew."
ARRAYS = "*the safetensors file beside it is corrupt, or belongs to another recording. Restore both files *"


def assert_refused(gate: Gate, message: str) -> None:
    before = gate.stored()
    result = gate.run("--circuit-report")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        [
            message,
            "  To accept the present reference instead: pytest --circuit-accept=changed --circuit-reason 'why'",
            "circuit gate: FAIL (1 FAIL)",
        ]
    )
    assert gate.stored() == before


def change(gate: Gate, ending: str, edit: Callable[[bytes], bytes]) -> None:
    """Edits a file of the baseline."""
    file = gate.baseline_file(ending)
    old = file.read_bytes()
    new = edit(old)
    assert new != old
    file.write_bytes(new)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize(("ending", "message"), [("json", CORRUPT), ("safetensors", ARRAYS)])
def test_truncated(gate: Gate, ending: str, message: str, kept: float) -> None:
    change(gate, ending, lambda content: content[: int(kept * len(content))])
    assert_refused(gate, message)


PLACES = [0.0, 0.003, 0.1, 0.3, 0.5, 0.7, 0.9, 0.997, 1.0]
"""From the first byte to the last."""


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("ending", ["json", "safetensors"])
def test_one_flipped_bit(gate: Gate, ending: str, place: float) -> None:
    def flip(content: bytes) -> bytes:
        position = int(place * (len(content) - 1))
        return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]

    change(gate, ending, flip)
    before = gate.stored()
    result = gate.run("--circuit-report")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(["*golden baseline *ioi.json*", "circuit gate: FAIL (1 FAIL)"])
    assert gate.stored() == before


def test_a_number_edited_by_hand(gate: Gate) -> None:
    def edit(content: bytes) -> bytes:
        document = json.loads(content)
        next(iter(document["noise"].values()))["one prompt a batch"]["drift"] = 0.5
        return (json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()

    change(gate, "json", edit)
    assert_refused(gate, CHANGED)


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content.replace(b"\n", b"\r\n"),
        lambda content: content.rstrip(b"\n"),
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: json.dumps(json.loads(content)).encode(),
    ],
    ids=["CRLF", "no newline at the end", "byte order mark", "reformatted"],
)
def test_layout_changed_by_a_tool(gate: Gate, edit: Callable[[bytes], bytes]) -> None:
    change(gate, "json", edit)
    result = gate.run("--circuit-report")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=4)


def test_line_ending_conversion_says_what_to_do_about_it(gate: Gate) -> None:
    change(gate, "json", lambda content: content.replace(b"\n", b"\r\n"))
    assert_refused(gate, "*line-ending conversion (mark the folder '-text' in .gitattributes). Restore it *")


@pytest.mark.parametrize("content", [b"[]", b"null", b"3", b"{}", b'{"schema": "1"}', b'{"schema": 1}', b"\xff\xfe"])
def test_json_of_something_else(gate: Gate, content: bytes) -> None:
    change(gate, "json", lambda _: content)
    before = gate.stored()
    result = gate.run("--circuit-report")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*golden baseline *ioi.json *", "circuit gate: FAIL (1 FAIL)"])
    result.stdout.no_fnmatch_line("*Traceback*")
    assert gate.stored() == before


def test_arrays_of_another_task(gate: Gate) -> None:
    """Each file is intact, but they do not belong together."""
    other = gate.baseline_file("safetensors", "facts").read_bytes()
    change(gate, "safetensors", lambda _: other)
    assert_refused(gate, ARRAYS)


def test_a_baseline_of_another_task(gate: Gate) -> None:
    arrays = gate.baseline_file("safetensors", "facts")
    change(gate, "json", lambda _: gate.baseline_file("json", "facts").read_bytes())
    shutil.copy(arrays, gate.baselines / arrays.name.replace("facts", "ioi"))
    assert_refused(gate, "*was recorded of heads on the task 'facts', and is called otherwise.*")


def test_a_folder_in_the_files_place(gate: Gate) -> None:
    (gate.baselines / "ioi.json").unlink()
    (gate.baselines / "ioi.json").mkdir()
    result = gate.run("--circuit-report")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*ioi.json cannot be read: Is a directory*"])
