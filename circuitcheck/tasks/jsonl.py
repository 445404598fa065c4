"""A user's own task: a JSONL file, one prompt pair a line, in text or in token ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from circuitcheck.core.errors import TaskError
from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.tasks.texts import TextPair
from circuitcheck.tasks.tokens import pair_problems, tokenize

TEXT_KEYS = {"clean", "counterfactual", "answer", "foil", "cluster"}
ID_KEYS = {"clean_ids", "counterfactual_ids", "answer_id", "foil_id", "cluster"}
Parsed = tuple[PromptPair | None, list[str]]


def load_jsonl(path: Path, tokenizer: Any = None, vocabulary: int | None = None) -> Task:
    """Reads a task file; the task is named after the file.

    Args:
        path: the file; empty lines are ignored.
        tokenizer: needed for lines in text.
        vocabulary: number of token ids the model knows; ids beyond it are refused.

    Raises:
        TaskError: the file cannot be read, is empty, or has bad lines, which are all named.
    """
    try:
        # Not splitlines(): JSON strings may hold characters such as U+2028, at which it would split too.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"task file {path} cannot be read: {error}") from error
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise TaskError(f"task file {path} is empty; it needs one JSON object a line.")
    pairs: list[PromptPair] = []
    problems: list[str] = []
    seen: dict[tuple[int, ...], int] = {}
    for number, line in numbered:
        pair, faults = _parse(line, tokenizer, vocabulary)
        if pair is not None and pair.clean in seen:
            faults = [*faults, f"same clean prompt as line {seen[pair.clean]}"]
        if pair is not None:
            seen.setdefault(pair.clean, number)
            pairs.append(pair)
        problems += [f"line {number}: {fault}" for fault in faults]
    if problems:
        raise TaskError(f"task file {path} has {len(problems)} problem(s):\n  " + "\n  ".join(problems))
    return Task(path.stem, tuple(pairs))


def _parse(line: str, tokenizer: Any, vocabulary: int | None) -> Parsed:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # a number of too many digits, brackets nested too deeply
        return None, [f"not JSON: {error}"]
    if not isinstance(record, dict):
        return None, ["not a JSON object"]
    keys = max(TEXT_KEYS, ID_KEYS, key=lambda keys: len(keys & record.keys()))  # whichever was meant
    faults = [f"unknown key {key!r}" for key in sorted(set(record) - keys)]
    faults += [f"missing key {key!r}" for key in sorted(keys - set(record))]
    if faults:
        return None, faults
    return _from_ids(record, vocabulary) if keys is ID_KEYS else _from_text(record, tokenizer)


def _from_text(record: dict[str, Any], tokenizer: Any) -> Parsed:
    faults = [f"{key} must be a non-empty string" for key in sorted(TEXT_KEYS) if not _is_text(record[key])]
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
    if faults:
        return None, faults
    clean, counterfactual = tuple(record["clean_ids"]), tuple(record["counterfactual_ids"])
    pair = PromptPair(clean, counterfactual, record["answer_id"], record["foil_id"], record["cluster"])
    return pair, pair_problems(pair)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_id(value: object, vocabulary: int | None) -> bool:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return is_number and value >= 0 and (vocabulary is None or value < vocabulary)  # type: ignore[operator]


def _range(vocabulary: int | None) -> str:
    return "" if vocabulary is None else f" in 0..{vocabulary - 1}"
