"""From text pairs to token ids, with every reason why a pair cannot be used."""

from __future__ import annotations

from typing import Any

from circuitcheck.core.errors import TaskError
from circuitcheck.core.phrases import first_lines, shortened
from circuitcheck.core.prompts import PromptPair
from circuitcheck.tasks.texts import TextPair

MOST_TOKENS = 2**14
"""Of one prompt: attention takes the square of them."""


def prompt_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of `text` with whatever the tokenizer puts in front (such as `<s>`), and nothing behind it.

    Raises:
        TaskError: the tokenizer fails on it.
    """
    try:
        plain: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        full: list[int] = tokenizer(text)["input_ids"]
    except Exception as error:  # every tokenizer raises its own
        raise TaskError(f"the model's tokenizer fails on {shortened(text)}: {first_lines(error)}") from error
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return full[: start + len(plain)]
    return full


def continuation_ids(tokenizer: Any, prompt: str, continuation: str) -> list[int] | None:
    """Token ids that `continuation` adds after `prompt`; None where it changes how the prompt itself is split."""
    before, after = prompt_ids(tokenizer, prompt), prompt_ids(tokenizer, prompt + continuation)
    return after[len(before) :] if after[: len(before)] == before else None


def is_single_token(tokenizer: Any, word: str) -> bool:
    """Whether ` word` is one known token in the middle of a text."""
    added = continuation_ids(tokenizer, "It is", f" {word}")
    return added is not None and len(added) == 1 and added[0] != tokenizer.unk_token_id


def tokenize(tokenizer: Any, pair: TextPair) -> tuple[PromptPair | None, list[str]]:
    """The pair in token ids, or None with all reasons why it cannot be used."""
    problems = []
    clean, counterfactual = prompt_ids(tokenizer, pair.clean), prompt_ids(tokenizer, pair.counterfactual)
    for name, ids in (("clean", clean), ("counterfactual", counterfactual)):
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
            problems.append(f"{name} has a word that the tokenizer does not know")
    if len(clean) != len(counterfactual):
        problems.append(
            f"clean has {len(clean)} tokens, counterfactual {len(counterfactual)}; they must be equally long"
        )
    answer = _single(tokenizer, pair.clean, pair.answer, "answer", problems)
    foil = _single(tokenizer, pair.clean, pair.foil, "foil", problems)
    if problems or answer is None or foil is None:
        return None, problems
    prompt_pair = PromptPair(tuple(clean), tuple(counterfactual), answer, foil, pair.cluster)
    return prompt_pair, pair_problems(prompt_pair)


def pair_problems(pair: PromptPair) -> list[str]:
    """What is wrong with a pair whatever its tokenizer."""
    problems = []
    if len(pair.clean) > MOST_TOKENS:
        problems.append(f"clean has {len(pair.clean)} tokens, and at most {MOST_TOKENS} are run")
    if not pair.clean or not pair.counterfactual:
        problems.append("a prompt is empty")
    if len(pair.clean) != len(pair.counterfactual):
        problems.append(
            f"clean has {len(pair.clean)} tokens, counterfactual {len(pair.counterfactual)}; they must be equally long"
        )
    elif pair.clean == pair.counterfactual:
        problems.append("clean and counterfactual are the same")
    if pair.answer == pair.foil:
        problems.append("answer and foil are the same token")
    return problems


def _single(tokenizer: Any, prompt: str, text: str, name: str, problems: list[str]) -> int | None:
    added = continuation_ids(tokenizer, prompt, text)
    if added is not None and len(added) == 1 and added[0] != tokenizer.unk_token_id:
        return added[0]
    spaced = "" if text.startswith(" ") else continuation_ids(tokenizer, prompt, f" {text}")
    hint = f"; with a leading space, {shortened(' ' + text)}, it is" if spaced and len(spaced) == 1 else ""
    if added is not None and len(added) == 1:
        what = "is not known to the tokenizer"
    else:
        what = "is not one token after the prompt" + ("" if added is None else f" but {len(added)}")
    problems.append(f"{name} {shortened(text)} {what}{hint}")
    return None
