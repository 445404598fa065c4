"""A task by name or by file."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

from circuitcheck.core.errors import TaskError
from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.tasks import facts, induction, ioi
from circuitcheck.tasks.jsonl import load_jsonl
from circuitcheck.tasks.texts import Generator
from circuitcheck.tasks.tokens import is_single_token, tokenize

BUILT_IN: dict[str, Generator] = {"ioi": ioi.pairs, "facts": facts.pairs, "induction": induction.pairs}
FEWEST, MOST = 64, 128
"""Prompts of a built-in task where no number is asked for: as many as its words give, within these."""
SEED = 0
ATTEMPTS_PER_PROMPT = 50


def load_task(
    task: str | Path,
    tokenizer: Any = None,
    *,
    prompts: int | None = None,
    seed: int = SEED,
    vocabulary: int | None = None,
) -> Task:
    """Loads a built-in task by name, or a JSONL file by path.

    Args:
        task: `ioi`, `facts`, `induction`, or a path that ends in `.jsonl`.
        tokenizer: the model's Hugging Face tokenizer; may be None for a file in token ids.
        prompts: how many pairs a built-in task has, by default up to 128 and at least 64; a file is always taken whole.
        seed: of a built-in task's words.
        vocabulary: number of token ids the model knows.

    Raises:
        TaskError: an unknown name, a bad file, or a tokenizer in which a built-in task has too few single-token words.
    """
    task = str(task)
    if task in BUILT_IN:
        if tokenizer is None:
            raise TaskError(
                f"task {task!r} is in text, but the model has no tokenizer; give a JSONL file in token ids."
            )
        return _known(_generate(task, tokenizer, prompts, seed), vocabulary)
    if task.endswith(".jsonl"):
        return _known(load_jsonl(Path(task), tokenizer, vocabulary), vocabulary)
    raise TaskError(f"unknown task {task!r}: it is none of {', '.join(BUILT_IN)}, and not a path to a .jsonl file.")


def _known(task: Task, vocabulary: int | None) -> Task:
    """The task, whose token ids the model knows."""
    if vocabulary is not None and task.largest_token >= vocabulary:
        raise TaskError(
            f"task {task.name!r} needs the token id {task.largest_token}, and the model knows {vocabulary}: its "
            "tokenizer belongs to another model."
        )
    return task


def _generate(name: str, tokenizer: Any, prompts: int | None, seed: int) -> Task:
    least, most = (FEWEST, MOST) if prompts is None else (prompts, prompts)
    singles: dict[str, bool] = {}

    def usable(word: str) -> bool:
        if word not in singles:
            singles[word] = is_single_token(tokenizer, word)
        return singles[word]

    pairs: dict[tuple[int, ...], PromptPair] = {}
    asked: set[str] = set()
    with suppress(ValueError):  # too few words are left to choose from
        stream = BUILT_IN[name](random.Random(f"{name}-{seed}"), usable)
        for _ in range(most * ATTEMPTS_PER_PROMPT):
            text = next(stream)
            if text.clean in asked:  # a task that has run out of prompts repeats them at length
                continue
            asked.add(text.clean)
            pair, problems = tokenize(tokenizer, text)
            if pair is None or problems:
                raise TaskError(f"task {name!r}: {text.clean!r} cannot be used: {'; '.join(problems)}")
            pairs.setdefault(pair.clean, pair)
            if len(pairs) == most:
                break
    if len(pairs) >= least:
        return Task(name, tuple(pairs.values()))
    raise TaskError(
        f"task {name!r}: {least} different prompts cannot be made from its words that are single tokens here, only "
        f"{len(pairs)}; ask for fewer (--circuit-prompts), or write a task of your own as JSONL."
    )
