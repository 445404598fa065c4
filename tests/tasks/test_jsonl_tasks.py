"""A user's own task file: every fault is named with its line, all at once, with the way out."""

from __future__ import annotations

import json
import os

import pytest
import word_tokenizers

from circuitcheck.core.errors import TaskError
from circuitcheck.core.prompts import PromptPair
from circuitcheck.tasks.jsonl import load_jsonl
from circuitcheck.tasks.named import load_task

TEXT = {
    "clean": "The capital of France is",
    "counterfactual": "The capital of Spain is",
    "answer": " Paris",
    "foil": " Madrid",
    "cluster": "capital",
}
OTHER_TEXT = TEXT | {"clean": "The capital of Italy is", "answer": " Rome"}
IDS = {"clean_ids": [1, 2, 3], "counterfactual_ids": [1, 4, 3], "answer_id": 5, "foil_id": 6, "cluster": "ids"}
VOCABULARY = 50


def without(record, key):
    return {name: value for name, value in record.items() if name != key}


@pytest.fixture
def write(tmp_path):
    def write_lines(*lines):
        file = tmp_path / "own.jsonl"
        file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
        return file

    return write_lines


def faults(file, tokenizer="embedded", vocabulary=VOCABULARY) -> list[str]:
    """The lines of the refusal, each of which starts with its line number."""
    tokenizer = word_tokenizers.word_level() if tokenizer == "embedded" else tokenizer
    with pytest.raises(TaskError) as refused:
        load_jsonl(file, tokenizer, vocabulary)
    head, *lines = str(refused.value).splitlines()
    assert head == f"task file {file} has {len(lines)} problem(s):"
    return [line.strip() for line in lines]


# --- good files ------------------------------------------------------------------------------------------------------


def test_text_becomes_token_ids(write):
    tokenizer = word_tokenizers.word_level()
    task = load_jsonl(write(TEXT, "", OTHER_TEXT, "  "), tokenizer)
    number = tokenizer.get_vocab()
    words = ["The", "capital", "of", "France", "is"]
    assert task.name == "own"
    assert task.pairs[0] == PromptPair(
        tuple(number[word] for word in words),
        tuple(number["Spain" if word == "France" else word] for word in words),
        number["Paris"],
        number["Madrid"],
        "capital",
    )
    assert len(task.pairs) == 2


def test_token_ids_need_no_tokenizer(write):
    task = load_jsonl(write(IDS), vocabulary=7)
    assert task.pairs == (PromptPair((1, 2, 3), (1, 4, 3), 5, 6, "ids"),)
    assert load_jsonl(write(IDS)) == task


def test_templates_that_stand_one_behind_the_other_are_mixed(write):
    """Drift and repair use the first solved prompts: of 96 lines by template, 32 were of three templates of eight."""
    order = "aabbcca"
    lines = [
        IDS | {"clean_ids": [number, 2, 3], "counterfactual_ids": [number, 4, 3], "cluster": cluster}
        for number, cluster in enumerate(order)
    ]
    task = load_jsonl(write(*lines), vocabulary=VOCABULARY)
    assert task.clusters == list("abcabca")
    assert [pair.clean[0] for pair in task.pairs] == [0, 2, 4, 1, 3, 5, 6]


def test_a_file_may_hold_both(write):
    assert len(load_jsonl(write(TEXT, IDS), word_tokenizers.word_level()).pairs) == 2


def test_a_task_file_is_loaded_by_its_path(write):
    file = write(IDS)
    assert load_task(str(file)) == load_task(file) == load_jsonl(file)
    assert load_task(str(file), vocabulary=7) == load_jsonl(file)
    with pytest.raises(TaskError, match=r"in 0\.\.5"):
        load_task(str(file), vocabulary=6)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x1c"])
def test_only_line_feeds_end_a_line(tmp_path, separator):
    """JSON strings may hold these as they are; str.splitlines() would cut the line in two."""
    file = tmp_path / "own.jsonl"
    record = IDS | {"cluster": f"before{separator}after"}
    escaped = json.dumps(record) if separator < " " else json.dumps(record, ensure_ascii=False)
    file.write_text(escaped, encoding="utf-8")
    assert load_jsonl(file).clusters == [f"before{separator}after"]


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_files_from_other_systems_are_read(tmp_path, start, ending):
    file = tmp_path / "own.jsonl"
    lines = [json.dumps(IDS), json.dumps(IDS | {"clean_ids": [7, 8, 9]})]
    file.write_bytes((start + ending.join(lines) + ending).encode())
    assert len(load_jsonl(file).pairs) == 2


# --- files that are none ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "\n\n", "   \n"])
def test_an_empty_file_is_refused(tmp_path, content):
    file = tmp_path / "own.jsonl"
    file.write_text(content)
    with pytest.raises(TaskError, match=r"own\.jsonl is empty; it needs one JSON object a line"):
        load_jsonl(file)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(TaskError, match=r"missing\.jsonl cannot be read: .*No such file"):
        load_jsonl(tmp_path / "missing.jsonl")
    with pytest.raises(TaskError, match=r"cannot be read"):
        load_jsonl(tmp_path)
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TaskError, match=r"binary\.jsonl cannot be read: 'utf-8' codec"):
        load_jsonl(tmp_path / "binary.jsonl")


# --- one fault -------------------------------------------------------------------------------------------------------

ONE_FAULT = {
    "not JSON": ("{", ["not JSON: "]),
    "a number of too many digits": ('{"clean": ' + "1" * 5000 + "}", ["not JSON: "]),
    "nested too deeply": ("[" * 100_000, ["not JSON: "]),
    "a list": ([1], ["not a JSON object"]),
    "null": ("null", ["not a JSON object"]),
    "unknown keys": (TEXT | {"note": 1, "Answer": 2}, ["unknown key 'Answer'", "unknown key 'note'"]),
    "missing keys": (
        without(without(TEXT, "foil"), "cluster"),
        ["missing key 'cluster'", "missing key 'foil'"],
    ),
    "an empty object": (
        {},
        [f"missing key {key!r}" for key in ("answer", "clean", "cluster", "counterfactual", "foil")],
    ),
    "text and ids": (TEXT | {"answer_id": 3}, ["unknown key 'answer_id'"]),
    "ids without clean_ids": (without(IDS, "clean_ids"), ["missing key 'clean_ids'"]),
    "empty text": (
        TEXT | {"clean": "", "cluster": ""},
        ["clean must be a non-empty string", "cluster must be a non-empty string"],
    ),
    "text of another type": (TEXT | {"answer": 3}, ["answer must be a non-empty string"]),
    "an answer of two tokens": (
        TEXT | {"answer": " Paris Rome"},
        ["answer ' Paris Rome' is not one token after the prompt but 2"],
    ),
    "a foil of two tokens": (TEXT | {"foil": " Rome."}, ["foil ' Rome.' is not one token after the prompt but 2"]),
    "an unknown answer": (TEXT | {"answer": " Atlantis"}, ["answer ' Atlantis' is not known to the tokenizer"]),
    "an unknown word": (
        TEXT | {"clean": "The capital of Atlantis is", "counterfactual": "The capital of Mu is"},
        [
            "clean has a word that the tokenizer does not know",
            "counterfactual has a word that the tokenizer does not know",
        ],
    ),
    "no space before the answer": (
        TEXT | {"answer": "Paris", "foil": "Madrid"},
        [
            "answer 'Paris' is not one token after the prompt; with a leading space, ' Paris', it is",
            "foil 'Madrid' is not one token after the prompt; with a leading space, ' Madrid', it is",
        ],
    ),
    "lengths that differ": (
        TEXT | {"counterfactual": "The capital of the country Spain is"},
        ["clean has 5 tokens, counterfactual 7; they must be equally long"],
    ),
    "the same prompt twice": (
        TEXT | {"counterfactual": TEXT["clean"]},
        ["clean and counterfactual are the same"],
    ),
    "the same answer twice": (TEXT | {"foil": " Paris"}, ["answer and foil are the same token"]),
    "ids that are none": (
        IDS | {"clean_ids": [1, 2.0, 3], "counterfactual_ids": "123", "answer_id": True, "foil_id": None},
        [
            "clean_ids must be a list of token ids in 0..49",
            "counterfactual_ids must be a list of token ids in 0..49",
            "answer_id must be one token id in 0..49",
            "foil_id must be one token id in 0..49",
        ],
    ),
    "ids out of range": (
        IDS | {"clean_ids": [1, 2, 50], "counterfactual_ids": [-1, 2, 3], "answer_id": 50, "foil_id": -1},
        [
            "clean_ids must be a list of token ids in 0..49",
            "counterfactual_ids must be a list of token ids in 0..49",
            "answer_id must be one token id in 0..49",
            "foil_id must be one token id in 0..49",
        ],
    ),
    "no ids": (
        IDS | {"clean_ids": [], "counterfactual_ids": []},
        ["a prompt is empty", "clean and counterfactual are the same"],
    ),
    "id lists of other lengths": (
        IDS | {"counterfactual_ids": [1, 4]},
        ["clean has 3 tokens, counterfactual 2; they must be equally long"],
    ),
    "the same ids twice": (
        IDS | {"counterfactual_ids": [1, 2, 3], "foil_id": 5},
        ["clean and counterfactual are the same", "answer and foil are the same token"],
    ),
    "ids without a cluster": (IDS | {"cluster": 7}, ["cluster must be a non-empty string"]),
}


@pytest.mark.parametrize("fault", ONE_FAULT)
def test_a_faulty_line_is_named(write, fault):
    line, expected = ONE_FAULT[fault]
    found = faults(write(OTHER_TEXT, "", line))
    assert len(found) == len(expected)
    for message, part in zip(found, expected, strict=True):
        # a parser's own words, which follow the colon, are the parser's business
        assert message == f"line 3: {part}" or (part.endswith(": ") and message.startswith(f"line 3: {part}"))


def test_duplicates_are_named_with_the_line_that_they_repeat(write):
    found = faults(write(TEXT, IDS, OTHER_TEXT, TEXT | {"cluster": "other"}, IDS, IDS | {"answer_id": 7}))
    assert found == [
        "line 4: same clean prompt as line 1",
        "line 5: same clean prompt as line 2",
        "line 6: same clean prompt as line 2",
    ]


def test_text_without_a_tokenizer_is_told_the_way_out(write):
    assert faults(write(IDS, TEXT), tokenizer=None) == [
        "line 2: in text, but the model has no tokenizer; give clean_ids, counterfactual_ids, answer_id, foil_id"
    ]


def test_ids_of_a_model_of_unknown_vocabulary_may_be_any(write):
    assert faults(write(IDS | {"answer_id": -1, "foil_id": 10**9}), vocabulary=None) == [
        "line 1: answer_id must be one token id"
    ]


# --- all at once -----------------------------------------------------------------------------------------------------


def test_every_bad_line_is_named_at_once(write):
    lines = [TEXT, *(line for line, _ in ONE_FAULT.values()), IDS]
    found = faults(write(*lines))
    for number, (_, parts) in enumerate(ONE_FAULT.values(), start=2):
        for part in parts:
            assert any(message.startswith(f"line {number}: {part}") for message in found)
    assert found == sorted(found, key=lambda message: int(message.split(":")[0].removeprefix("line ")))
    # what is said beyond that: some of the faulty lines ask what another line asked
    known = sum(len(parts) for _, parts in ONE_FAULT.values())
    assert len(found) == known + sum("same clean prompt as line" in message for message in found)


def test_a_file_with_one_bad_line_gives_no_task(write):
    """The good lines are not taken without the bad one."""
    with pytest.raises(TaskError):
        load_jsonl(write(TEXT, OTHER_TEXT, "{"), word_tokenizers.word_level())


# --- byte-level tokenizers -------------------------------------------------------------------------------------------


def test_a_leading_space_is_part_of_a_byte_level_token(write):
    tokenizer = word_tokenizers.byte_level(1500)
    task = load_jsonl(write(TEXT), tokenizer)
    assert tokenizer.decode([task.pairs[0].answer]) == " Paris"
    (found, _) = faults(write(TEXT | {"answer": "Paris", "foil": "Madrid"}), tokenizer, None)
    assert found.startswith("line 1: answer 'Paris' is not one token after the prompt")
    assert found.endswith("; with a leading space, ' Paris', it is")


def test_no_hint_is_given_where_a_space_does_not_help(write):
    tokenizer = word_tokenizers.byte_level(1500)
    (found,) = faults(write(TEXT | {"answer": "Atlantis"}), tokenizer, None)
    assert found.startswith("line 1: answer 'Atlantis' is not one token after the prompt but ")
    assert "space" not in found


def test_a_framed_prompt_ends_before_the_answer(write):
    tokenizer = word_tokenizers.byte_level(1500, frame=True)
    (pair,) = load_jsonl(write(TEXT), tokenizer).pairs
    assert tokenizer.decode(pair.clean) == "<s>The capital of France is"
    assert tokenizer.decode(pair.counterfactual) == "<s>The capital of Spain is"


# --- a stranger's file -----------------------------------------------------------------------------------------------


def test_a_million_bad_lines_are_one_bearable_message(tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_text("x\n" * 10**6)
    with pytest.raises(TaskError) as caught:
        load_jsonl(file)
    assert len(str(caught.value)) < 50_000
    assert "line 100: not JSON" in str(caught.value)
    assert str(caught.value).endswith("line 101 and behind it was not looked at")


def test_a_line_of_a_million_letters_is_not_repeated(tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_text(json.dumps({"x" * 10**6: 1}) + "\n" + json.dumps({str(number): 1 for number in range(10**5)}))
    with pytest.raises(TaskError) as caught:
        load_jsonl(file)
    assert len(str(caught.value)) < 10_000


def test_devices_pipes_and_files_without_end_are_not_read(tmp_path):
    file = tmp_path / "task.jsonl"
    file.symlink_to("/dev/zero")
    with pytest.raises(TaskError, match="it is no regular file"):
        load_jsonl(file)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(TaskError, match="it is no regular file"):
        load_jsonl(file)
    file.unlink()
    with file.open("wb") as stream:
        stream.truncate(10**11)
    with pytest.raises(TaskError, match=r"it has 100000000000 bytes, and at most"):
        load_jsonl(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer_id": 2**40}, "answer_id must be one token id"),
        ({"cluster": "c" * 301}, "cluster is longer than 300"),
        ({"clean_ids": [1] * 20_000, "counterfactual_ids": [2] * 20_000}, "clean has 20000 tokens, and at most 16384"),
    ],
)
def test_what_no_model_could_use_is_refused(tmp_path, change, message):
    line = {"clean_ids": [5, 9, 2], "counterfactual_ids": [5, 8, 2], "answer_id": 7, "foil_id": 6, "cluster": "a"}
    file = tmp_path / "task.jsonl"
    file.write_text(json.dumps(line | change))
    with pytest.raises(TaskError, match=message):
        load_jsonl(file)


@pytest.mark.parametrize("text", ['"a": 1, "a": 2', '"a": "\\ud800"', '"a": NaN'])
def test_json_that_says_two_things_or_none_is_refused(tmp_path, text):
    file = tmp_path / "task.jsonl"
    file.write_text("{" + text + "}")
    with pytest.raises(TaskError, match="line 1: not JSON: "):
        load_jsonl(file)


def test_a_tokenizer_that_fails_is_named(tmp_path):
    def broken(*arguments, **options):
        raise RuntimeError("no unknown token")

    file = tmp_path / "task.jsonl"
    file.write_text(json.dumps({"clean": "a", "counterfactual": "b", "answer": "c", "foil": "d", "cluster": "e"}))
    with pytest.raises(TaskError, match="the model's tokenizer fails on 'a': no unknown token"):
        load_jsonl(file, broken)
