"""A user's own task: a JSONL file, one prompt pair a line, in text or in token ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from circuitcheck.core.bounded import read_bounded
from circuitcheck.core.errors import TaskError
from circuitcheck.core.phrases import shortened
from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.core.strict_json import strict_json
from circuitcheck.tasks.texts import TextPair
from circuitcheck.tasks.tokens import pair_problems, tokenize

TEXT_KEYS = {"clean", "counterfactual", "answer", "foil", "cluster"}
ID_KEYS = {"clean_ids", "counterfactual_ids", "answer_id", "foil_id", "cluster"}
MOST_BYTES, MOST_PAIRS, MOST_TEXT, MOST_CLUSTER, MOST_ID = 2**25, 20_000, 100_000, 300, 2**31
"""Bytes of a file, its pairs, characters of a text and of a cluster's name; token ids where no model limits them."""

MOST_PROBLEMS, MOST_FAULT, MOST_KEYS = 100, 200, 5
"""Problems that are named, characters of each, and unknown keys of a line."""

Parsed = tuple[PromptPair | None, list[str]]


def load_jsonl(path: Path, tokenizer: Any = None, vocabulary: int | None = None) -> Task:
    """Reads a task file; the task is named after the file.

    Args:
        path: the file; empty lines are ignored.
        tokenizer: needed for lines in text.
        vocabulary: number of token ids the model knows; ids beyond it are refused.

    Returns:
        The pairs with their clusters mixed, see `mixed`; in the order of the file within each cluster.

    Raises:
        TaskError: the file cannot be read, is empty, or has bad lines, which are all named.
    """
    try:
        content = read_bounded(path, MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise TaskError(f"task file {path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"task file {path} cannot be read: {error}") from error
    pairs: list[PromptPair] = []
    problems: list[str] = []
    seen: dict[tuple[int, ...], int] = {}
    # Not splitlines(): JSON strings may hold characters such as U+2028, at which it would split too.
    for number, line in enumerate(StringIO(content, newline="\n"), start=1):
        if not line.strip():
            continue
        pair, faults = _parse(line, tokenizer, vocabulary)
        if pair is not None and pair.clean in seen:
            faults = [*faults, f"same clean prompt as line {seen[pair.clean]}"]
        if pair is not None:
            seen.setdefault(pair.clean, number)
            pairs.append(pair)
        problems += [f"line {number}: {fault[:MOST_FAULT]}" for fault in faults]
        if len(problems) > MOST_PROBLEMS or len(pairs) > MOST_PAIRS:
            problems = [*problems[:MOST_PROBLEMS], f"line {number} and behind it was not looked at"]
            break
    if problems:
        raise TaskError(f"task file {path} has {len(problems)} problem(s):\n  " + "\n  ".join(problems))
    if not pairs:
        raise TaskError(f"task file {path} is empty; it needs one JSON object a line.")
    return Task(path.stem, mixed(pairs))


def mixed(pairs: Sequence[PromptPair]) -> tuple[PromptPair, ...]:
    """The first pair of every cluster, then the second of every cluster, and so on.

    A gate looks at the first few, and keeps values of units of the first few: of one template alone they would say
    nothing about others. People write templates one behind the other.
    """
    seen: Counter[str] = Counter()
    turns = []
    for pair in pairs:
        turns.append(seen[pair.cluster])
        seen[pair.cluster] += 1
    return tuple(pairs[place] for place in sorted(range(len(pairs)), key=turns.__getitem__))


def _parse(line: str, tokenizer: Any, vocabulary: int | None) -> Parsed:
    try:
        record = strict_json(line)
    except ValueError as error:
        return None, [f"not JSON: {error}"]
    if not isinstance(record, dict):
        return None, ["not a JSON object"]
    keys = max(TEXT_KEYS, ID_KEYS, key=lambda keys: len(keys & record.keys()))  # whichever was meant
    faults = [f"unknown key {shortened(key)}" for key in sorted(set(record) - keys)[:MOST_KEYS]]
    faults += [f"missing key {key!r}" for key in sorted(keys - set(record))]
    if faults:
        return None, faults
    return _from_ids(record, vocabulary) if keys is ID_KEYS else _from_text(record, tokenizer)


def _from_text(record: dict[str, Any], tokenizer: Any) -> Parsed:
    faults = [f"{key} must be a non-empty string" for key in sorted(TEXT_KEYS) if not _is_text(record[key])]
    faults = faults or _too_long(record)
    if faults:
        return None, faults
    if tokenizer is None:
        return None, ["in text, but the model has no tokenizer; give clean_ids, counterfactual_ids, answer_id, foil_id"]
    return tokenize(tokenizer, TextPair(**record))


def _from_ids(record: dict[str, Any], vocabulary: int | None) -> Parsed:
    faults = []
    for key in ("clean_ids", "counterfactual_ids"):
        if not isinstance(record[key], list) or not all(_is_id(value, vocabulary) for value in record[key]):
            faults.append(f"{key} must be a list of token ids{_range(vocabulary)}")
    for key in ("answer_id", "foil_id"):
        if not _is_id(record[key], vocabulary):
            faults.append(f"{key} must be one token id{_range(vocabulary)}")
    if not _is_text(record["cluster"]):
        faults.append("cluster must be a non-empty string")
    faults = faults or _too_long(record)
    if faults:
        return None, faults
    clean, counterfactual = tuple(record["clean_ids"]), tuple(record["counterfactual_ids"])
    pair = PromptPair(clean, counterfactual, record["answer_id"], record["foil_id"], record["cluster"])
    return pair, pair_problems(pair)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _too_long(record: dict[str, Any]) -> list[str]:
    most = {key: MOST_CLUSTER if key == "cluster" else MOST_TEXT for key in sorted(record)}
    return [
        f"{key} is longer than {most[key]}"
        for key in most
        if isinstance(record[key], str | list) and len(record[key]) > most[key]
    ]


def _is_id(value: object, vocabulary: int | None) -> bool:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return is_number and 0 <= value < (MOST_ID if vocabulary is None else vocabulary)  # type: ignore[operator]


def _range(vocabulary: int | None) -> str:
    return "" if vocabulary is None else f" in 0..{vocabulary - 1}"
