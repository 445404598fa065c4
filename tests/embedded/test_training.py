"""The training text, and that the script trains, from its seed alone."""

from __future__ import annotations

import random
import sys
from itertools import islice

import pytest
import torch

from circuitcheck.embedded import train as training
from circuitcheck.embedded.corpus import END, UNKNOWN, build_tokenizer, sentences
from circuitcheck.runtimes.pytorch.loading.load import load_model
from circuitcheck.tasks import facts, induction, ioi
from circuitcheck.tasks.named import BUILT_IN, load_task
from circuitcheck.tasks.word_lists import COMMON, COUNTRIES


@pytest.fixture(scope="module")
def text():
    return list(islice(sentences(random.Random(1)), 5000))


def test_the_corpus_depends_on_its_seed_alone(text):
    random.seed(1)
    assert list(islice(sentences(random.Random(1)), 100)) == text[:100]
    assert list(islice(sentences(random.Random(2)), 100)) != text[:100]


def test_the_corpus_has_no_unknown_word(text):
    tokenizer = build_tokenizer()
    unknown = tokenizer.token_to_id(UNKNOWN)
    assert tokenizer.encode("Atlantis").ids == [unknown], "what is unknown is told"
    assert [sentence for sentence in text if unknown in tokenizer.encode(sentence).ids] == []


def test_every_word_of_the_vocabulary_can_occur(text):
    """No row of the embedding stays as it was initialized."""
    tokenizer = build_tokenizer()
    used = {number for sentence in text for number in tokenizer.encode(sentence).ids} | {tokenizer.token_to_id(END)}
    unused = {tokenizer.id_to_token(number) for number in set(range(tokenizer.get_vocab_size())) - used}
    assert unused == {UNKNOWN}


def test_the_longest_sentence_fits_into_a_row():
    """With its answer, its full stop and the token behind it; a row starts with a whole sentence."""
    tokenizer = build_tokenizer()
    country, words = next(iter(COUNTRIES)), list(COMMON[: max(induction.LENGTHS)])
    longest = [
        *(ioi.sentence(template, ("Mary", "John"), "Mary", "store", "drink") + " John." for template in ioi.TEMPLATES),
        *(f"{template.format(country=country)} Paris." for _, template in facts.TEMPLATES),
        f"{induction.text(words, len(words))}.",
    ]
    lengths = [len(tokenizer.encode(sentence).ids) + 1 for sentence in longest]
    assert max(lengths) <= training.LENGTH
    asked = [
        len(pair.clean)
        for name in BUILT_IN
        for pair in load_task(name, load_model("embedded", device="cpu").tokenizer).pairs
    ]
    assert max(asked) < max(lengths)


def test_rows_start_with_a_whole_sentence(text):
    tokenizer = build_tokenizer()
    end = tokenizer.token_to_id(END)
    batch = next(training.batches(tokenizer, random.Random(1)))
    assert batch.shape == (training.BATCH, training.LENGTH)
    assert batch[0].tolist()[: len(tokenizer.encode(text[0]).ids)] == tokenizer.encode(text[0]).ids
    ids = {sentence: tokenizer.encode(sentence).ids for sentence in text}
    whole = {tuple(row) for row in ids.values()}
    for row in batch.tolist():
        assert tuple(row[: row.index(end)]) in whole


@pytest.fixture(scope="module", autouse=True)
def small_batches():
    """A step is the same with fewer rows, and faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "BATCH", 16)
        yield


@pytest.fixture(scope="module")
def trained(small_batches):
    return training.train(steps=2, seed=3)


def same(first, second) -> bool:
    second = second.state_dict()
    return all(torch.equal(tensor, second[name]) for name, tensor in first.state_dict().items())


def test_two_steps_move_every_weight(trained):
    torch.manual_seed(3)
    untrained = training.build_model(build_tokenizer()).state_dict()
    model, _ = trained
    assert not model.training
    unmoved = [name for name, tensor in model.state_dict().items() if torch.equal(tensor, untrained[name])]
    assert unmoved == []


def test_two_steps_are_reproducible_from_the_seed(trained):
    torch.manual_seed(99)
    random.seed(99)
    again, tokenizer = training.train(steps=2, seed=3)
    assert same(trained[0], again)
    assert tokenizer.to_str() == trained[1].to_str()
    assert not same(trained[0], training.train(steps=2, seed=4)[0])


def test_training_lowers_the_loss():
    """From chance, log(340) = 5.8 nats a token, to under 5 within 20 steps; untrained models of any seed stay there."""
    model, tokenizer = training.train(steps=20)
    ids = next(training.batches(tokenizer, random.Random(99)))
    with torch.no_grad():
        assert model(input_ids=ids, labels=ids).loss < 5
        assert training.build_model(tokenizer).eval()(input_ids=ids, labels=ids).loss > 5.5


def test_a_saved_model_is_loaded_and_proven(trained, tmp_path):
    training.save(*trained, tmp_path / "saved")
    model = load_model(tmp_path / "saved", device="cpu")
    assert same(trained[0], model.module)
    task = load_task("facts", model.tokenizer)
    assert task == load_task("facts", load_model("embedded", device="cpu").tokenizer)
    model.prove(task.prompts(), "head")


def test_the_command_line_writes_a_directory(tmp_path, monkeypatch, capsys):
    directory = tmp_path / "saved"
    monkeypatch.setattr(sys, "argv", ["train", str(directory), "--steps", "1", "--seed", "5"])
    training.main()
    assert capsys.readouterr().out == f"wrote {directory}\n"
    assert same(training.train(steps=1, seed=5)[0], load_model(directory, device="cpu").module)
