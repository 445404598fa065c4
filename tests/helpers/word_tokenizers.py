"""Tokenizers as released models have them, and as they must not be for the built-in tasks."""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import cache
from itertools import islice

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from circuitcheck.embedded.corpus import build_tokenizer, sentences
from circuitcheck.tasks.word_lists import COMMON, COUNTRIES, NAMES

BYTES = 256
START, STOP = "<s>", "</s>"


def word_level(words: Iterable[str] = ()) -> PreTrainedTokenizerFast:
    """The embedded model's tokenizer, or one of the given words alone; what it does not know is `<unk>`."""
    backend = build_tokenizer()
    words = list(words)
    if words:
        backend.model = WordLevel({word: number for number, word in enumerate(["<unk>", *words])}, unk_token="<unk>")
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


@cache
def byte_level(merges: int, *, frame: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE as GPT-2's, trained on sentences with all the tasks' words.

    Args:
        merges: how many; with none, every letter is a token.
        frame: whether it puts `<s>` in front of a text and `</s>` behind it.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BYTES + 2 + merges,
        special_tokens=[START, STOP],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    every_word = " ".join(["", *NAMES, *COMMON, *COUNTRIES, *(word for both in COUNTRIES.values() for word in both)])
    text = [*islice(sentences(random.Random(0)), 500), *[every_word] * 20]
    backend.train_from_iterator(text, trainer)
    if frame:
        special = [(token, backend.token_to_id(token)) for token in (START, STOP)]
        backend.post_processor = TemplateProcessing(single=f"{START} $A {STOP}", special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=START, eos_token=STOP)
