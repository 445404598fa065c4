"""Model directories, GGUF files and task files as strangers may make them."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import forgery
import gguf_writer
import model_directories
import safetensors
import safetensors.numpy
import tiny_models
import torch

from attacks.attempts import Attempt, Tally, attempts
from attacks.mutations import STRANGE, mutated_arrays, mutated_bytes, mutated_header, mutated_json, twice
from circuitcheck import load_model
from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.runtimes.pytorch.loading.fingerprint import fingerprint_module
from circuitcheck.tasks.jsonl import load_jsonl

FAMILIES = ("gpt_neox", "gpt2", "llama", "gpt_neo", "mpt")
LARGE = 2**24
"""Bytes of a file that was made endless before."""

BIG = [10**7, 10**9, 10**12, 2**31, 2**63, 10**400]
WORDS = ["<unk>", "<eos>", *(f"w{number}" for number in range(2, tiny_models.VOCABULARY))]
TASK = Task("any", (PromptPair((3, 5, 7, 9), (3, 6, 7, 9), 11, 12, "a"), PromptPair((4, 5, 7), (3, 5, 7), 2, 1, "b")))


def attack_models(times: int, seed: int = 0) -> Tally:
    """Model directories of several families with one or two of their files changed."""
    return attempts("model directories", _models, times, seed)


def _models() -> Attempt:
    torch.set_num_threads(1)
    root = Path(mkdtemp(prefix="attack-"))
    whole = {}
    for family in FAMILIES:
        directory = model_directories.save_tiny(root / f"{family}-kept", family)
        model_directories.save_word_tokenizer(directory)
        loaded = load_model(directory)
        whole[family] = (directory, loaded.fingerprints["weights"], fingerprint_module(loaded.module))

    def attempt(chance: random.Random) -> str:
        family = chance.choice(FAMILIES)
        kept, weights, content = whole[family]
        directory = root / "attacked"
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(kept, directory)
        for _ in range(chance.choice([1, 1, 2])):
            _spoil(chance, chance.choice(sorted(directory.iterdir())))
        model = load_model(directory, chance.choice(["f32", "f16", "saved"]), device="cpu")
        as_f32 = load_model(directory, device="cpu")
        if fingerprint_module(as_f32.module) != content and as_f32.fingerprints["weights"] == weights:
            return "hidden: another model has the same fingerprint"
        with model.unchanged():
            model.metric(TASK.prompts())
        return "loaded"

    return attempt


def _spoil(chance: random.Random, file: Path) -> None:
    """Something happens to one file of a directory."""
    if not file.is_file() or file.stat().st_size > LARGE:
        return
    content = file.read_bytes()
    edit = chance.randrange(10)
    if edit == 0:
        file.unlink()
        chance.choice(
            [lambda: file.symlink_to("/dev/zero"), lambda: os.mkfifo(file), file.mkdir, file.touch, lambda: None]
        )()
    elif edit == 1:
        os.truncate(file, chance.choice([0, 10, 10**10, 10**12]))
    elif edit <= 3:
        file.write_bytes(mutated_bytes(chance, content))
    elif file.suffix == ".json":
        file.write_bytes(_spoiled_json(chance, file.name, content))
    elif file.suffix == ".safetensors":
        if chance.random() < 0.5:
            with suppress(ValueError, struct.error):  # likewise
                file.write_bytes(mutated_header(chance, content))
        else:
            with suppress(safetensors.SafetensorError):  # it was spoilt before
                arrays = mutated_arrays(chance, safetensors.numpy.load(content))
                file.write_bytes(safetensors.numpy.save(arrays, metadata={"format": "pt"}))


def _spoiled_json(chance: random.Random, name: str, content: bytes) -> bytes:
    try:
        found = json.loads(content)
    except ValueError:
        return content
    if chance.random() < 0.1:
        return twice(chance, forgery.spelled(found))
    if name == "config.json" and isinstance(found, dict) and chance.random() < 0.4:
        numbers = [key for key, value in found.items() if isinstance(value, int) and not isinstance(value, bool)]
        if numbers:
            found[chance.choice(numbers)] = chance.choice([0, -1, 1, 3, 1000, *BIG])
            return forgery.spelled(found)
    return forgery.spelled(mutated_json(chance, found)) if isinstance(found, dict) and found else content


def attack_gguf(times: int, seed: int = 0) -> Tally:
    """GGUF files with bytes, numbers of their header or whole parts changed."""
    return attempts("GGUF files", _gguf, times, seed)


def _gguf() -> Attempt:
    torch.set_num_threads(1)
    root = Path(mkdtemp(prefix="attack-"))
    kept = []
    for family in ("llama", "gpt2"):
        module = tiny_models.tiny_module(family)
        module.save_pretrained(root / family)
        for kind in ("Q8_0", "F16"):
            kept.append((family, gguf_writer.write_gguf(module, root / f"{family}-{kind}.gguf", kind, tokens=WORDS)))

    def attempt(chance: random.Random) -> str:
        family, whole = chance.choice(kept)
        directory = root / "attacked"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        file = directory / "model.gguf"
        file.write_bytes(_spoiled_gguf(chance, whole.read_bytes()))
        reference = root / family if chance.random() < 0.5 else None
        model = load_model(file, "saved", reference=reference, device="cpu")
        with model.unchanged():
            model.metric(TASK.prompts())
        return "loaded"

    return attempt


def _spoiled_gguf(chance: random.Random, content: bytes) -> bytes:
    data = bytearray(content)
    edit = chance.randrange(4)
    if edit == 0:
        return mutated_bytes(chance, content)
    header = content.index(b"token_embd") + 2000
    if edit == 1:  # a count or a length
        place = chance.randrange(min(header, len(data) - 8))
        data[place : place + 8] = chance.choice([0, 1, 255, 2**20, *BIG[:5], 2**64 - 1]).to_bytes(8, "little")
    elif edit == 2:  # a number of four bytes
        place = chance.randrange(min(header, len(data) - 4))
        data[place : place + 4] = chance.choice([0, 1, 2, 8, 9, 10, 77, 10**7, 2**31, 2**32 - 1]).to_bytes(4, "little")
    else:  # the value behind a key
        keys = [
            b"block_count",
            b"embedding_length",
            b"head_count",
            b"context_length",
            b"vocab_size",
            b"feed_forward_length",
        ]
        place = data.find(chance.choice(keys))
        if place > 0:
            place = data.index(b"\4\0\0\0", place) + 4
            data[place : place + 4] = chance.choice([0, 1, 3, 1000, 10**7, 2**31, 2**32 - 1]).to_bytes(4, "little")
    return bytes(data)


def attack_tasks(times: int, seed: int = 0) -> Tally:
    """Task files in text and in token ids."""
    return attempts("task files", _tasks, times, seed)


def _tasks() -> Attempt:
    root = Path(mkdtemp(prefix="attack-"))
    model_directories.save_word_tokenizer(root)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(root)
    ids = [
        {"clean_ids": [5, 9, n], "counterfactual_ids": [5, 8, n], "answer_id": 7, "foil_id": 6, "cluster": f"c{n % 8}"}
        for n in range(2, 42)
    ]
    texts = [
        {
            "clean": f"w5 w9 w{n}",
            "counterfactual": f"w5 w8 w{n}",
            "answer": " w7",
            "foil": " w6",
            "cluster": f"c{n % 8}",
        }
        for n in range(2, 42)
    ]
    edits: list[Callable[[random.Random, list[Any]], bytes]] = [
        lambda chance, lines: mutated_bytes(chance, _lines(lines)),
        lambda chance, lines: _lines([mutated_json(chance, line) if chance.random() < 0.1 else line for line in lines]),
        lambda chance, lines: _lines([*lines, chance.choice([*STRANGE, lines[0]])]),
        lambda chance, lines: _lines(lines) + chance.choice([b"x\n" * 10**6, b"[" * 10**5, b"\xff", b"{}\n" * 10**5]),
        lambda chance, lines: twice(chance, _lines(lines).replace(b", ", b",\n")),
    ]

    def attempt(chance: random.Random) -> str:
        lines, file = chance.choice([ids, texts]), root / "task.jsonl"
        if file.is_symlink() or file.exists():
            file.unlink()
        if chance.random() < 0.02:
            chance.choice([lambda: file.symlink_to("/dev/zero"), lambda: os.mkfifo(file), lambda: None])()
        else:
            file.write_bytes(chance.choice(edits)(chance, lines))
            if chance.random() < 0.02:
                os.truncate(file, 10**11)
        task = load_jsonl(file, tokenizer, chance.choice([None, tiny_models.VOCABULARY]))
        ids_used = [
            token for pair in task.pairs for token in (*pair.clean, *pair.counterfactual, pair.answer, pair.foil)
        ]
        if not all(0 <= token < 2**31 for token in ids_used) or len({pair.clean for pair in task.pairs}) < len(
            task.pairs
        ):
            return "hidden: token ids out of range, or a prompt twice"
        return "loaded"

    return attempt


def _lines(lines: list[Any]) -> bytes:
    return b"".join(json.dumps(line).encode(errors="surrogatepass") + b"\n" for line in lines)
