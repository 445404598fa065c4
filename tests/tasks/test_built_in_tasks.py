"""The built-in tasks: what they ask, from a seed, and what they never ask."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from itertools import islice

import pytest
import word_tokenizers

from circuitcheck.core.errors import TaskError
from circuitcheck.embedded.corpus import sentences
from circuitcheck.tasks import facts, induction, ioi
from circuitcheck.tasks.named import BUILT_IN, load_task
from circuitcheck.tasks.word_lists import COMMON, COUNTRIES, NAMES, OBJECTS, PLACES

FINGERPRINTS = {
    "ioi": "2e6de23b3bf0472a0096b57db9f85e7297f5039369cca9b2d7463e755c91f52c",
    "facts": "542febcd7a2ede62003fced96e6a02f67905d7c1376afb7aec9d845e22567c44",
    "induction": "19a61efd8ec3d30e6a5e8e573c556121fea73d98a9c2893631a8da700f2b2424",
}
"""Of the default prompts under the embedded tokenizer. The golden baselines are of these: if a change is meant, accept
them anew."""

TOKENIZERS = {
    "word-level": word_tokenizers.word_level,
    "byte-level": lambda: word_tokenizers.byte_level(1500),
    "byte-level-framed": lambda: word_tokenizers.byte_level(1500, frame=True),
}


@pytest.fixture(params=BUILT_IN)
def name(request):
    return request.param


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def texts(name, count, seed=0):
    """Pairs as text, every word usable."""
    return list(islice(BUILT_IN[name](random.Random(seed), lambda _: True), count))


# --- what every task must be, under every tokenizer ------------------------------------------------------------------


def test_up_to_128_different_pairs_in_sixteen_clusters(name, tokenizer):
    task = load_task(name, tokenizer)
    assert task.name == name
    assert len(task.pairs) == len({pair.clean for pair in task.pairs})
    assert 64 <= len(task.pairs) <= 128, "as many as the words give"
    assert len(set(task.clusters)) == 16
    # clusters take turns, so that any part of the task has as many as it can
    assert len(set(task.clusters[:16])) == 16
    assert len(set(task.clusters[:32])) == 16


def test_a_pair_differs_in_one_token_and_asks_for_two(name, tokenizer):
    for pair in load_task(name, tokenizer).pairs:
        assert len(pair.clean) == len(pair.counterfactual)
        assert sum(a != b for a, b in zip(pair.clean, pair.counterfactual, strict=True)) == 1
        assert pair.answer != pair.foil
        if tokenizer.unk_token_id is not None:
            ids = {*pair.clean, *pair.counterfactual, pair.answer, pair.foil}
            assert tokenizer.unk_token_id not in ids


def test_prompts_start_with_what_the_tokenizer_puts_in_front_and_end_before_the_answer(name):
    tokenizer = word_tokenizers.byte_level(1500, frame=True)
    for pair in load_task(name, tokenizer).pairs:
        for prompt in (pair.clean, pair.counterfactual):
            assert prompt[0] == tokenizer.bos_token_id
            assert tokenizer.eos_token_id not in prompt
        # tokenized in one piece, prompt and answer are the same tokens
        whole = tokenizer.decode([*pair.clean[1:], pair.answer])
        assert tokenizer(whole)["input_ids"] == [*pair.clean, pair.answer, tokenizer.eos_token_id]


def test_generation_depends_on_the_seed_alone(name):
    tokenizer = word_tokenizers.word_level()
    default = load_task(name, tokenizer)
    random.seed(1)  # a generator that used the global state would now differ
    again = load_task(name, word_tokenizers.word_level(), prompts=128, seed=0)
    assert again == default
    assert load_task(name, tokenizer, seed=1).pairs != default.pairs
    assert default.fingerprint == FINGERPRINTS[name]


def test_fewer_prompts_are_the_first_of_more(name):
    tokenizer = word_tokenizers.word_level()
    assert load_task(name, tokenizer, prompts=20).pairs == load_task(name, tokenizer).pairs[:20]


@pytest.mark.parametrize("change", ["clean", "counterfactual", "answer", "foil", "cluster", "order"])
def test_every_part_of_a_pair_and_their_order_count_in_the_fingerprint(change):
    task = load_task("facts", word_tokenizers.word_level(), prompts=2)
    first, second = task.pairs
    pairs = (second, first) if change == "order" else (replace(first, **{change: getattr(second, change)}), second)
    assert replace(task, pairs=pairs).fingerprint != task.fingerprint
    assert replace(task, name="other").fingerprint == task.fingerprint


# --- what each asks --------------------------------------------------------------------------------------------------


def names_in(text):
    return [word for word in re.findall(r"\w+", text) if word in NAMES]


def test_ioi_asks_for_the_receiver_in_both_name_orders():
    orders = {}
    for pair in texts("ioi", 64):
        first, second, giver = names_in(pair.clean)
        receiver = pair.answer.strip()
        assert {first, second} == {receiver, giver}
        assert pair.foil == f" {giver}"
        # the counterfactual has the other name where the giver stands, so that the giver is the right answer
        assert names_in(pair.counterfactual) == [first, second, receiver]
        orders.setdefault(pair.cluster, set()).add(first == receiver)
    assert set(map(frozenset, orders.values())) == {frozenset({True, False})}


def test_facts_are_asked_with_true_answers():
    asked = set()
    for pair in texts("facts", 64):
        country, other = (
            next(word for word in re.findall(r"\w+", text) if word in COUNTRIES)
            for text in (pair.clean, pair.counterfactual)
        )
        assert pair.clean.replace(country, other) == pair.counterfactual
        relation = pair.cluster.partition("-")[0]
        place = ("capital", "language").index(relation)
        assert (pair.answer, pair.foil) == (f" {COUNTRIES[country][place]}", f" {COUNTRIES[other][place]}")
        asked.add(relation)
    assert asked == {"capital", "language"}


def test_induction_asks_for_the_word_that_followed():
    for pair in texts("induction", 64):
        prefix, *words = pair.clean.split()
        length, repeated = map(int, re.findall(r"\d+", pair.cluster))
        assert prefix == "Words:"
        assert words[length:] == words[:repeated]
        assert len(set(words[:length])) == length
        assert pair.answer == f" {words[repeated]}"
        # the counterfactual has the foil there, and repeats the same words
        changed = pair.counterfactual.split()[1:]
        assert changed == [*words[:repeated], pair.foil.strip(), *words[repeated + 1 :]]
        assert pair.foil.strip() not in words


# --- what no model was trained on ------------------------------------------------------------------------------------


def test_only_held_out_combinations_are_asked():
    for pair in texts("ioi", 500):
        assert ioi.may_be_prompted(*names_in(pair.clean)[:2])
    for pair in texts("facts", 500):
        template = facts.TEMPLATES[int(pair.cluster.partition("-")[2])][1]
        for text in (pair.clean, pair.counterfactual):
            country = next(word for word in re.findall(r"\w+", text) if word in COUNTRIES)
            assert text == template.format(country=country)
            assert facts.may_be_prompted(template, country)
    for pair in texts("induction", 500):
        assert induction.may_be_prompted(pair.clean.split()[1:])


def test_about_a_quarter_of_all_combinations_is_held_out():
    """Enough to ask, and most of them left to learn from."""
    pairs = [(first, second) for first in NAMES for second in NAMES if first < second]
    # a share of 1326 hashes: standard deviation 0.012, so that four of them are 0.05
    assert sum(ioi.may_be_prompted(*pair) for pair in pairs) / len(pairs) == pytest.approx(0.25, abs=0.05)
    assert all(ioi.may_be_prompted(a, b) == ioi.may_be_prompted(b, a) for a, b in pairs)
    questions = [(template, country) for _, template in facts.TEMPLATES for country in COUNTRIES]
    # of 512: standard deviation 0.019
    assert sum(facts.may_be_prompted(*question) for question in questions) / len(questions) == pytest.approx(
        0.25, abs=0.08
    )


@pytest.fixture(scope="module")
def training_text():
    """As much of the corpus as a sixteenth of the training run saw."""
    return list(islice(sentences(random.Random(0)), 20_000))


def test_no_held_out_combination_occurs_in_the_training_text(training_text):
    """The exact prompts below would hardly occur by chance; what makes them new is the combination."""
    frames = {
        re.compile(re.escape(template).replace(r"\{country\}", r"(\w+)") + r" \w+\."): template
        for _, template in facts.TEMPLATES
    }
    seen = {"ioi": 0, "facts": 0, "induction": 0}
    for sentence in training_text:
        words = sentence.rstrip(".").split()
        if words[0] == induction.PREFIX:
            assert not induction.may_be_prompted(words[1:])
            seen["induction"] += 1
        elif names := names_in(sentence):
            assert not ioi.may_be_prompted(*names[:2])
            seen["ioi"] += 1
        else:
            matches = [
                (template, match[1]) for frame, template in frames.items() if (match := frame.fullmatch(sentence))
            ]
            assert len(matches) == 1
            assert not facts.may_be_prompted(*matches[0])
            seen["facts"] += 1
    assert min(seen.values()) > 3000, "the three kinds take turns"


def test_no_prompt_occurs_in_the_training_text(training_text):
    tokenizer = word_tokenizers.word_level()
    prompts = {
        pair.clean for name in BUILT_IN for seed in range(3) for pair in load_task(name, tokenizer, seed=seed).pairs
    }
    lengths = {len(prompt) for prompt in prompts}
    encoded = [tuple(ids) for ids in tokenizer(training_text)["input_ids"]]
    trained_on = {ids[:length] for ids in encoded for length in lengths}
    assert not prompts & trained_on
    # the comparison is of the right kind: other questions of the same templates do occur
    asked_in_training = tuple(tokenizer("The capital of France is")["input_ids"])
    held_out = facts.may_be_prompted("The capital of {country} is", "France")
    assert held_out is (asked_in_training not in trained_on)


def test_every_word_of_the_tasks_is_in_use(training_text):
    """A word that never occurs in training could not be asked for."""
    words = set(re.findall(r"\w+", " ".join(training_text)))
    answers = {word for both in COUNTRIES.values() for word in both}
    assert {*NAMES, *PLACES, *OBJECTS, *COUNTRIES, *COMMON, *answers} <= words


# --- tokenizers that do not serve ------------------------------------------------------------------------------------


def test_too_few_single_token_words_are_refused(name):
    with pytest.raises(TaskError, match=rf"task '{name}': 64 different prompts cannot be made from its words"):
        load_task(name, word_tokenizers.byte_level(0))


def test_more_prompts_than_there_are_combinations_are_refused():
    with pytest.raises(
        TaskError, match=r"task 'facts': 1000 different prompts cannot be made .* only 131; ask for fewer .*JSONL"
    ):
        load_task("facts", word_tokenizers.word_level(), prompts=1000)


def test_only_words_of_one_token_are_used():
    tokenizer = word_tokenizers.byte_level(500)
    split = {name: tokenizer(f" {name}")["input_ids"] for name in NAMES}
    singles = {ids[0] for ids in split.values() if len(ids) == 1}
    assert 2 < len(singles) < len(NAMES), "some are, and some are not"
    few = load_task("ioi", tokenizer, prompts=16)
    assert {pair.answer for pair in few.pairs} | {pair.foil for pair in few.pairs} <= singles


def test_words_that_the_tokenizer_does_not_know_are_refused():
    tokenizer = word_tokenizers.word_level([*NAMES, "It", "is"])
    with pytest.raises(TaskError, match=r"task 'ioi': '\w+ .*' cannot be used: clean has a word .* does not know"):
        load_task("ioi", tokenizer)


def test_a_built_in_task_needs_a_tokenizer(name):
    with pytest.raises(TaskError, match=rf"task '{name}' is in text, but the model has no tokenizer; .*JSONL"):
        load_task(name)


@pytest.mark.parametrize("task", ["IOI", "copying", "task.json", ""])
def test_an_unknown_task_is_refused_with_those_that_are_known(task):
    with pytest.raises(TaskError, match=rf"unknown task {task!r}: it is none of ioi, facts, induction, .*\.jsonl"):
        load_task(task, word_tokenizers.word_level())
