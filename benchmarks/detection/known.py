"""Models whose circuits are known because their weights were set by hand, and the prompts that these solve.

Which heads matter is known by construction; all others are distractors of small random weights. The residual stream and
every head are then turned into another basis (`detection.bases`), which changes nothing of what is computed, so that
weights are dense as those of a trained model, and rounding disturbs all of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from circuitcheck.core.prompts import PromptPair
from circuitcheck.core.units import Unit
from detection.anatomy import HeadMaps, head_maps
from detection.bases import change_basis

SHARPNESS = 14.0
"""Attention score of what a head looks for, above everything else: exp(14) is a million to one."""

DISTRACTORS = {"queries": 0.3, "keys": 0.3, "values": 0.025, "outputs": 0.025}
"""Standard deviation of the weights of heads that are in no circuit; circuit weights are 0.1 to 3."""

WORDS, POSITIONS = 32, 24
INDUCTION_CIRCUIT: dict[Unit, str] = {
    (0, 2): "writes the previous token",
    (1, 1): "attends to what followed the current token before, and copies it",
    (1, 3): "likewise, half as strong",
}

SUBJECTS, SYNONYMS, FILLERS = 24, 3, 9
LOOKUP_CIRCUIT: dict[Unit, str] = {
    (0, 0): "where the first relation is asked for: looks the subject's answer up",
    (0, 1): "likewise for the second relation, with the same keys and values",
    (1, 2): "the first relation once more, half as strong",
}
BEGIN, FIRST_SUBJECT = 0, 1
FIRST_RELATION = FIRST_SUBJECT + SUBJECTS
FIRST_FILLER = FIRST_RELATION + 2 * SYNONYMS
FIRST_ANSWER = FIRST_FILLER + FILLERS
VOCABULARY = FIRST_ANSWER + 2 * SUBJECTS


def induction_model(seed: int = 0) -> GPT2LMHeadModel:
    """A GPT-2 of 2 layers x 4 heads, attention only but for small random MLPs: `INDUCTION_CIRCUIT`.

    The stream holds, side by side, which token, which position, which token before, and what comes next.
    """
    config = GPT2Config(
        vocab_size=WORDS,
        n_positions=POSITIONS,
        n_embd=128,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    model: Any = GPT2LMHeadModel(config)
    token, position, before, following = (slice(0, 32), slice(32, 56), slice(56, 88), slice(88, 120))
    with torch.no_grad():
        _distract(model, layers=2, seed=seed)
        wte, wpe, head = model.transformer.wte.weight, model.transformer.wpe.weight, model.lm_head.weight
        for table in (wte, wpe, head):
            table.zero_()
        wte[:, token] = torch.eye(WORDS)
        wpe[:, position] = torch.eye(POSITIONS)
        head[:, following] = 1.5 * torch.eye(WORDS)
        # A norm makes 7.9 of a 1 where two of 128 numbers are 1, 6.5 where three are, 5.7 where four are.
        first, second = (head_maps(model, layer) for layer in range(2))
        _attend(first, 2, _asks_before(POSITIONS), position, torch.eye(POSITIONS), position, size=7.9)
        _copy(first, 2, token, before, 1 / 7.9)
        for number, strength in ((1, 1.0), (3, 0.5)):
            _attend(second, number, torch.eye(WORDS), token, torch.eye(WORDS), before, size=6.5)
            _copy(second, number, token, following, strength / 6.5)
    return _dense(model, seed)


def induction_pairs(rng: random.Random) -> Iterator[PromptPair]:
    """Words and the first of them again; in the counterfactual the answer has changed places with a later word."""
    shapes = [(length, repeated) for length in (7, 9) for repeated in (2, 3, 4, 5)]
    while True:
        for length, repeated in shapes:
            words = rng.sample(range(1, WORDS), length)
            later = rng.randrange(repeated + 1, length)
            other = list(words)
            other[repeated], other[later] = words[later], words[repeated]
            yield PromptPair(
                clean=(*words, *words[:repeated]),
                counterfactual=(*other, *other[:repeated]),
                answer=words[repeated],
                foil=words[later],
                cluster=f"{length} words, {repeated} repeated",
            )


def induction_text(seed: int, rows: int = 64) -> Iterator[Tensor]:
    """Endless rows of ten words and the same again, token ids `[rows, 20]`."""
    rng = random.Random(f"induction text {seed}")
    while True:
        yield torch.tensor([2 * rng.sample(range(1, WORDS), 10) for _ in range(rows)])


def lookup_model(seed: int = 0) -> LlamaForCausalLM:
    """A Llama of 2 layers x 4 heads that share 2 keys and values: `LOOKUP_CIRCUIT`.

    The answer is one of two tables at the subject's place, which one the last token says. Rotary positions turn the
    upper halves of queries and keys by less than a thousandth over a prompt, so what lies there knows no place.
    """
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1e8},
        use_cache=False,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    model: Any = LlamaForCausalLM(config)
    subject, flags, answers, filler = (slice(0, SUBJECTS), 24, slice(32, 80), slice(80, 80 + FILLERS))
    is_begin, is_subject, relation = flags, flags + 1, (flags + 2, flags + 3)
    with torch.no_grad():
        _distract(model, layers=2, seed=seed)
        table, head = model.model.embed_tokens.weight, model.lm_head.weight
        table.zero_()
        head.zero_()
        table[BEGIN, is_begin] = 1
        table[FIRST_SUBJECT:FIRST_RELATION, subject] = torch.eye(SUBJECTS)
        table[FIRST_SUBJECT:FIRST_RELATION, is_subject] = 1
        for number, place in enumerate(relation):
            table[FIRST_RELATION + number * SYNONYMS :][:SYNONYMS, place] = 1
        table[FIRST_FILLER:FIRST_ANSWER, filler] = torch.eye(FILLERS)
        table[FIRST_ANSWER:, 100] = 1
        head[FIRST_ANSWER:, answers] = 1.5 * torch.eye(2 * SUBJECTS)
        for layer, number, asked, strength in ((0, 0, 0, 1.0), (0, 1, 1, 1.0), (1, 2, 0, 0.5)):
            maps = head_maps(model, layer)
            group = number // maps.per_group
            queries, keys, values = (
                part.weight for part in (maps.queries[number], maps.keys[group], maps.values[group])
            )
            for weight in (queries, keys, values, maps.outputs[number]):
                weight.zero_()
            # The norm makes 8 of a 1 where two of 128 numbers are 1 and 11 where one is: relations are alone.
            size, slow = (SHARPNESS * 32**0.5) ** 0.5, 12
            queries[slow, relation[asked]] = size / 11
            queries[slow + 1, [relation[1 - asked], is_begin, is_subject]] = size / 11
            keys[slow, is_subject] = size / 8
            keys[slow + 1, is_begin] = size / 11
            values[:SUBJECTS, subject] = torch.eye(SUBJECTS) / 8
            order = torch.arange(SUBJECTS).roll(5 + 6 * asked)
            maps.outputs[number][answers][asked * SUBJECTS :][:SUBJECTS, :SUBJECTS] = (
                strength * torch.eye(SUBJECTS)[order]
            )
    return _dense(model, seed)


def lookup_answer(relation: int, subject: int) -> int:
    """Token that stands in one of the two tables at a subject, from 0."""
    place = (subject + 5 + 6 * relation) % SUBJECTS
    return FIRST_ANSWER + relation * SUBJECTS + place


def lookup_pairs(rng: random.Random) -> Iterator[PromptPair]:
    """A subject among fillers and then a relation; the counterfactual has another subject."""
    shapes = [(relation, before, after) for relation in (0, 1) for before, after in ((0, 1), (1, 1), (1, 2), (2, 2))]
    while True:
        for relation, before, after in shapes:
            one, other = rng.sample(range(SUBJECTS), 2)
            fill = [rng.randrange(FIRST_FILLER, FIRST_ANSWER) for _ in range(before + after)]
            last = FIRST_RELATION + relation * SYNONYMS + rng.randrange(SYNONYMS)
            clean, foil = (
                (BEGIN, *fill[:before], FIRST_SUBJECT + subject, *fill[before:], last) for subject in (one, other)
            )
            yield PromptPair(
                clean,
                foil,
                lookup_answer(relation, one),
                lookup_answer(relation, other),
                f"{relation} {before} {after}",
            )


def lookup_text(seed: int, rows: int = 64) -> Iterator[Tensor]:
    """Endless rows of prompts behind one another with their answers, token ids `[rows, 24]`."""
    rng = random.Random(f"lookup text {seed}")
    stream = lookup_pairs(rng)
    while True:
        found = []
        for _ in range(rows):
            row: list[int] = []
            while len(row) < 8:
                pair = next(stream)
                row += [*pair.clean, pair.answer]
            found.append(row[:8])
        yield torch.tensor(found)


@torch.no_grad()
def _distract(model: nn.Module, layers: int, seed: int) -> None:
    """Small random weights everywhere; norms stay as they are."""
    generator = torch.Generator().manual_seed(1000 + seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, 0.02, generator=generator)
        elif "bias" in name:
            parameter.zero_()
    for layer in range(layers):
        maps = head_maps(model, layer)
        for part in ("queries", "keys", "values"):
            for rows in getattr(maps, part):
                rows.weight.normal_(0, DISTRACTORS[part], generator=generator)
        for output in maps.outputs:
            output.copy_(torch.randn(output.shape, generator=generator) * DISTRACTORS["outputs"])


def _attend(
    maps: HeadMaps, number: int, asks: Tensor, asks_of: slice, says: Tensor, says_of: slice, size: float
) -> None:
    """Lets a head attend where what a position says is what another asks for, each read from its part of the stream."""
    queries, keys = maps.queries[number].weight, maps.keys[number].weight
    scale = (SHARPNESS * len(queries) ** 0.5) ** 0.5 / size
    for weight, wanted, place in ((queries, asks, asks_of), (keys, says, says_of)):
        weight.zero_()
        weight[: len(wanted), place] = scale * wanted


def _copy(maps: HeadMaps, number: int, source: slice, target: slice, strength: float) -> None:
    """Lets a head write what stands in one part of the stream into another."""
    values, output = maps.values[number].weight, maps.outputs[number]
    values.zero_()
    output.zero_()
    width = source.stop - source.start
    values[:width, source] = torch.eye(width)
    output[target, :width] = strength * torch.eye(width)


def _asks_before(count: int) -> Tensor:
    """Position i asks for i - 1, and the first one for itself, `[count, count]`."""
    asks = torch.zeros(count, count)
    asks[range(count - 1), range(1, count)] = 1
    asks[0, 0] = 1
    return asks


def _dense(model: Any, seed: int) -> Any:
    """The same in another basis."""
    model.eval().requires_grad_(False)
    for kind in ("stream rotated", "heads rotated"):
        change_basis(model, kind, seed)
    return model
