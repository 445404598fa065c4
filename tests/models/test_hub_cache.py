"""The published experiment's model by its hub id, from a local cache and without a network."""

from __future__ import annotations

from pathlib import Path

import gate_process
import pytest
import word_tokenizers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from circuitcheck import Baseline, load_task
from circuitcheck.tasks.named import BUILT_IN

HUB_ID, COMMIT = "EleutherAI/pythia-70m", "0123456789abcdef0123456789abcdef01234567"
MERGES = 1500
"""Enough for the tasks' words to become single tokens."""

PROMPTS = 16


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizers.byte_level(MERGES)


@pytest.fixture(scope="module")
def desk(tokenizer, tmp_path_factory):
    """A folder, and a cache as the hub client leaves it behind, with a tiny random GPT-NeoX under Pythia's name."""
    root = tmp_path_factory.mktemp("home")
    repository = root / "hub" / f"models--{HUB_ID.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = GPTNeoXConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes)
    GPTNeoXForCausalLM(config).save_pretrained(snapshot)
    tokenizer.save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    folder = tmp_path_factory.mktemp("desk")
    return gate_process.Desk(folder, HUB_ID, "ioi"), {"HF_HOME": str(root), "HF_HUB_OFFLINE": "1"}


def test_baselines_are_recorded_and_candidates_gated_by_hub_id(desk):
    """A random model solves nothing, so nothing is passed; but everything was found, loaded and run."""
    desk, environment = desk
    options = ["--circuit-download", f"--circuit-prompts={PROMPTS}", "--circuit-task=facts", "--circuit-task=induction"]
    recorded = desk.gate(
        *options, "--circuit-accept=new", "--circuit-reason=first", "--circuit-accept-in-ci", **environment
    )
    assert recorded.returncode == 0, recorded.stdout
    folder = Path(desk.folder) / "baselines" / "pythia-70m"
    assert sorted(file.name for file in folder.glob("*.json")) == ["facts.json", "induction.json", "ioi.json"]
    assert Baseline.load(folder / "ioi.json").model == HUB_ID

    gated = desk.gate(*options, "--circuit-report-dir=out", "--circuit-candidate=f16", **environment)
    assert gated.returncode == 1, gated.stdout
    entry = desk.report()["f16"]
    assert (entry["model"], entry["verdict"]) == (HUB_ID, "INCONCLUSIVE")
    assert "solves" in entry["message"]


def test_what_is_in_the_cache_is_used_only_where_the_hub_may_be(desk):
    """Else a run would depend on what somebody fetched on this machine before."""
    desk, environment = desk
    refused = desk.gate("--circuit-report", "--circuit-candidate=f16", **environment)
    assert refused.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"model directory {HUB_ID} does not exist." in refused.stdout
    assert "add --circuit-download for a hub id" in refused.stdout


def test_without_cache_and_network_the_way_out_is_named(desk, tmp_path):
    desk, _ = desk
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    refused = desk.gate("--circuit-report", "--circuit-download", "--circuit-candidate=f16", **environment)
    assert refused.returncode == 1
    assert "download the model where there is a network" in " ".join(refused.stdout.split())


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_answer_and_foil_is_one_token_there(tokenizer, name):
    task = load_task(name, tokenizer, prompts=PROMPTS)
    assert len(task.pairs) == PROMPTS
    for pair in task.pairs:
        for token in (pair.answer, pair.foil):
            word = tokenizer.decode([token])
            assert tokenizer.encode(word, add_special_tokens=False) == [token]
