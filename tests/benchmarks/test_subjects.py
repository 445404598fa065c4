import json

import numpy as np
import pytest
import torch
from detection import known, trained
from detection.anatomy import head_counts
from detection.families import FAMILIES
from detection.subjects import FRESH, MODELS, MOST, MOST_FACTS, TASKS_OF, half_of, load, sampled
from detection.truth import circuit_heads, reference_answers, shares_of

from circuitcheck import load_task
from circuitcheck.embedded import train as training
from circuitcheck.embedded.corpus import build_tokenizer
from circuitcheck.runtimes.pytorch.loading.fingerprint import fingerprint_module

TO_CHOOSE_ON = {"embedded", "stories260k", "llama-3", "known-induction"}
FAMILIES_TO_CHOOSE_ON = {
    "computed again",
    "rounded per channel",
    "rounded in groups",
    "rounded stochastically",
    "normal float",
    "SmoothQuant and W8A8",
    "int8-sim",
    "another basis",
    "layers mixed, 4 and 8 bits",
    "embeddings rounded, too",
    "torchao's kernels",
    "map at 3 bits",
    "wrong positions",
    "attention replaced by its mean",
    "adapter in a head",
    "noise in a head",
    "clipped outliers",
    "wrong scale of a block",
    "biases dropped",
    "wrong keys and values",
    "2:4 pruned",
    "gains of norms dropped",
    "vocabulary truncated",
    "layers exchanged",
    "two heads pruned, healed",
}


def test_halves_stay_as_they_were_before_the_first_run():
    assert {name for name in MODELS if half_of(name) == "choose"} == TO_CHOOSE_ON
    assert {name for name in FAMILIES if half_of(name) == "choose"} == FAMILIES_TO_CHOOSE_ON
    assert len(MODELS) == 2 * len(TO_CHOOSE_ON)


def test_tasks_are_known_without_loading(models):
    assert MODELS.keys() == TASKS_OF.keys()
    assert all(list(model.tasks) == TASKS_OF[name] for name, model in models.items())


def test_fresh_prompts_are_none_of_the_gates(models):
    for model in models.values():
        for task in model.tasks.values():
            gate, fresh = ({pair.clean for pair in some.pairs} for some in (task.gate, task.fresh))
            assert len(task.gate.pairs) == (MOST_FACTS if task.gate.name == "facts" else MOST)
            assert 0.9 * FRESH < len(task.fresh.pairs) <= FRESH
            assert not gate & fresh


@pytest.mark.parametrize("name", ["known-induction", "known-lookup"])
def test_what_was_set_by_hand_solves_its_task_with_its_heads(models, name):
    model = models[name]
    (task,) = model.tasks
    assert (reference_answers(model, task).metric > 2).all()
    heads = circuit_heads(shares_of(model))
    # The other heads were set to do next to nothing.
    assert set(heads) <= model.circuit
    assert {(0, 0), (0, 1)} <= set(heads) if name == "known-lookup" else {(0, 2), (1, 1)} <= set(heads)


def test_answers_of_the_table_by_hand():
    assert known.lookup_answer(0, 0) == known.FIRST_ANSWER + 5
    assert known.lookup_answer(1, 23) == known.FIRST_ANSWER + known.SUBJECTS + 10


def test_texts_are_the_same_every_time_and_others_for_other_seeds(models):
    for model in models.values():
        one, again, other = (next(model.text(seed)) for seed in (5, 5, 6))
        assert torch.equal(one, again)
        assert not torch.equal(one, other)
        assert one.max() < model.module.config.vocab_size


def test_a_model_speaks_for_itself(models):
    module = models["embedded"].module
    ids = next(sampled(module, seed=0, rows=3, length=9))
    assert ids.shape == (3, 9)
    assert torch.equal(ids, next(sampled(module, seed=0, rows=3, length=9)))


def test_any_directory_with_a_task(models, tmp_path):
    module = models["embedded"].module
    module.save_pretrained(tmp_path / "mine")
    task = load_task("ioi", _Words(), prompts=80)
    keys = ("clean_ids", "counterfactual_ids", "answer_id", "foil_id", "cluster")
    lines = [
        dict(zip(keys, (pair.clean, pair.counterfactual, pair.answer, pair.foil, pair.cluster), strict=True))
        for pair in task.pairs
    ]
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = load(f"{tmp_path / 'mine'}:{file}", tmp_path)
    assert model.name == "mine"
    assert [len(some.pairs) for some in (model.tasks["own"].gate, model.tasks["own"].fresh)] == [40, 40]
    assert model.evaluation.shape == (64, 32)
    assert np.isfinite(reference_answers(model, "own").metric).all()


def _Words():  # noqa: N802
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=build_tokenizer())


def test_a_model_is_trained_once(tmp_path, monkeypatch):
    monkeypatch.setattr(trained, "STEPS", 1)
    monkeypatch.setattr(training, "BATCH", 2)
    first, tokenizer = trained.trained("llama-3", tmp_path)
    monkeypatch.setattr(trained, "train", lambda *_: pytest.fail("trained again"))
    again, _ = trained.trained("llama-3", tmp_path)
    assert fingerprint_module(first) == fingerprint_module(again)
    assert head_counts(first) == (8, 2)
    assert tokenizer(" Mary").input_ids != [tokenizer.unk_token_id]
