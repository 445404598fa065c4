"""Models with their tasks, on which a gate is tried: `load(name, cache)`.

Each has prompts for the gate, fresh ones that no gate sees, for the ground truth, and texts for what else people look
at. Names, and with them half of the models, are set before anything was measured.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuitcheck import load_model, load_task
from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.core.units import Unit
from circuitcheck.tasks.named import BUILT_IN
from circuitcheck.tasks.texts import TextPair
from circuitcheck.tasks.tokens import is_single_token, tokenize
from detection import known
from detection.texts import training_text
from detection.trained import RECIPES, trained

MOST, FRESH = 256, 400
"""Prompts for the gate, and for the ground truth, where the task has as many."""

MOST_FACTS = 64
"""Of facts there are fewer, and some are to be left for the ground truth."""

SALT = "circuitcheck, issue 12, draw 8782"
"""Fixed before the first run: the first draw of equal halves in which all to choose on are the models that limits were
taken from before, the one that this benchmark was tried out on, and one that was trained for it."""

SHARED = Path(os.environ.get("CIRCUITCHECK_MODELS", Path(__file__).parents[3] / "shared" / "models"))
"""Where checkpoints lie that nobody here trained."""

Text = Callable[[int], Iterator[Tensor]]
"""Seed to endless token ids `[rows, seq]`, of what the model was made for."""


@dataclass(frozen=True)
class Prompts:
    """One task.

    Attributes:
        gate: what the gate may see, the first of them first.
        fresh: other prompts of the same kind, which no gate sees.
    """

    gate: Task
    fresh: Task


@dataclass(frozen=True)
class Model:
    """A reference with its tasks.

    Attributes:
        name: of the model.
        module: in float32 with eager attention; nothing may change it.
        text: what it was made for.
        tasks: name to prompts.
        circuit: heads that solve the tasks, where that is known by construction; all others are distractors.
        sibling: the name of a model of the same shape, whose layers would fit.
    """

    name: str
    module: Any
    text: Text
    tasks: Mapping[str, Prompts]
    circuit: frozenset[Unit] | None = None
    sibling: str | None = None
    memory: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What was found out about it, by name."""

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, made when it is first asked for."""
        if name not in self.memory:
            self.memory[name] = make()
        return self.memory[name]

    @property
    def evaluation(self) -> Tensor:
        """The text that detectors of outputs see, token ids `[rows, seq]`."""
        return self.once("evaluation", lambda: next(self.text(20_000)))  # type: ignore[no-any-return]

    @property
    def calibration(self) -> Tensor:
        """The text that quantizers look at, token ids `[rows, seq]`."""
        return self.once("calibration", lambda: next(self.text(10_000)))  # type: ignore[no-any-return]


def half_of(name: str) -> str:
    """`choose`, on which limits and rules may be chosen, or `report`, which is looked at once, when all is chosen."""
    return ("choose", "report")[hashlib.sha256(f"{SALT}: {name}".encode()).digest()[0] & 1]


def load(name: str, cache: Path) -> Model:
    """A model by name, or `DIRECTORY:TASK.jsonl`, whose first half is the gate's and whose second half is fresh.

    Args:
        name: a key of `MODELS`, or a directory and a file.
        cache: directory in which trained weights are kept.
    """
    if name in MODELS:
        return MODELS[name](name, cache)
    directory, _, file = name.rpartition(":")
    model = load_model(directory, device="cpu")
    task = load_task(file, model.tokenizer, vocabulary=model.facts.vocabulary)
    return Model(Path(directory).name, model.module, partial(sampled, model.module), {task.name: _split(task)})


MADE_UP = 24
"""Batches that a model makes up; then the same come again, for that takes its time."""


def sampled(module: Any, seed: int, rows: int = 64, length: int = 32) -> Iterator[Tensor]:
    """What a model itself says, token by token from its first token of all, endless token ids `[rows, seq]`."""
    generator = torch.Generator().manual_seed(seed)
    made_up = []
    for _ in range(MADE_UP):
        made_up.append(_made_up(module, generator, rows, min(length, module.config.max_position_embeddings)))
        yield made_up[-1]
    yield from cycle(made_up)


@torch.no_grad()
def _made_up(module: Any, generator: torch.Generator, rows: int, length: int) -> Tensor:
    ids, past = torch.full((rows, 1), module.config.bos_token_id or 0), None
    while ids.shape[1] < length:
        output = module(ids[:, -1:], past_key_values=past, use_cache=True)
        past, chances = output.past_key_values, output.logits[:, -1].float().softmax(-1)
        ids = torch.cat([ids, torch.multinomial(chances, 1, generator=generator)], dim=1)
    return ids


def _split(task: Task) -> Prompts:
    most = min(MOST, len(task.pairs) // 2)
    return Prompts(Task(task.name, task.pairs[:most]), Task(task.name, task.pairs[most:][:FRESH]))


DRAWS = 20_000
"""Prompts that are drawn of an endless stream until there are enough different ones, at most."""


def _different(stream: Iterator[PromptPair], count: int) -> tuple[PromptPair, ...]:
    """The first so many of a stream that are not the same."""
    pairs: dict[PromptPair, None] = {}
    for pair in islice(stream, DRAWS):
        pairs.setdefault(pair)
        if len(pairs) == count:
            break
    return tuple(pairs)


def _streamed(name: str, stream: Callable[[random.Random], Iterator[PromptPair]]) -> Prompts:
    some = _different(stream(random.Random(name)), MOST + FRESH)
    gate = some[:MOST]
    seen = {pair.clean for pair in gate}
    return Prompts(Task(name, gate), Task(name, tuple(pair for pair in some[MOST:] if pair.clean not in seen)))


def _built_in(tokenizer: Any) -> dict[str, Prompts]:
    """The three tasks; where there are few prompts, as of facts, fresh ones share some, with other foils."""
    tasks = {}
    for name, stream in BUILT_IN.items():
        gate = load_task(name, tokenizer, prompts=MOST_FACTS if name == "facts" else MOST)
        seen = {pair.clean for pair in gate.pairs}
        texts = stream(random.Random(f"fresh {name}"), partial(is_single_token, tokenizer))
        found = (tokenize(tokenizer, text)[0] for text in texts)
        fresh = _different((pair for pair in found if pair is not None and pair.clean not in seen), FRESH)
        tasks[name] = Prompts(gate, Task(name, fresh))
    return tasks


def _embedded(name: str, _: Path) -> Model:
    model = load_model(name, device="cpu")
    return Model(name, model.module, training_text, _built_in(model.tokenizer), sibling="neox-1")


def _trained(name: str, cache: Path) -> Model:
    module, tokenizer = trained(name, cache)
    sibling = {"neox-1": "neox-2", "neox-2": "neox-1"}.get(name)
    return Model(name, module, training_text, _built_in(tokenizer), sibling=sibling)


CHILDREN = (("Lily", "Tim"), ("Tim", "Lily"))
KINDS = (
    "girl",
    "boy",
    "child",
    "friend",
    "bird",
    "cat",
    "dog",
    "frog",
    "bear",
    "bunny",
    "kid",
    "mouse",
    "fish",
    "duck",
    "king",
    "pig",
    "lion",
    "doll",
    "man",
    "cow",
    "hen",
    "fox",
    "ant",
    "bee",
    "owl",
)
STORIES = (
    "{name} was a happy {kind}. {name} liked to play in the park. One day,",
    "{name} was a little {kind}. {name} liked to play with a red ball. One day,",
    "Once upon a time, there was a {kind} named {name}. {name} was very happy. One day,",
    "One day, a {kind} named {name} went to the park. {name} saw a big tree. Then",
    "There was a {kind}. {name} was the name of the {kind}. {name} had a toy. One day,",
    "{name} was a big {kind}. {name} had a mom and a dad. {name} was sad. One day,",
    "{name} and mom were in the house. {name} was a good {kind}. Then",
    "{name} was a {kind} who liked to run. {name} ran and ran. One day,",
)
FRESH_STORIES = (
    "{name} was a {kind} with a big smile. {name} loved to sing. One day,",
    "There was a little {kind} called {name}. {name} loved the sun. Then",
    "{name} saw a big {kind}. {name} was so happy. After that,",
    "One day {name} found a {kind}. {name} took it home. Then",
    "{name} and a {kind} went to the park. {name} had fun. Then",
    "Once there was a small {kind} named {name}. {name} liked to jump. One day,",
    "{name} had a {kind}. {name} and the {kind} were very happy. One day,",
    "In the park, {name} saw a {kind}. {name} liked it very much. Then",
)


def _stories(name: str, _: Path) -> Model:
    """Which of two children was named at the beginning; fresh prompts are of other templates."""
    model = load_model(SHARED / name, device="cpu")

    def task(templates: tuple[str, ...], kinds: tuple[str, ...]) -> dict[tuple[int, ...], PromptPair]:
        pairs = {}
        for kind, (one, other), (number, template) in product(kinds, CHILDREN, enumerate(templates)):
            texts = (template.format(name=child, kind=kind) for child in (one, other))
            pair, problems = tokenize(model.tokenizer, TextPair(*texts, f" {one}", f" {other}", f"template {number}"))
            if pair is not None and not problems:
                pairs[pair.clean] = pair
        return pairs

    gate, fresh = (tuple(task(templates, KINDS).values()) for templates in (STORIES, FRESH_STORIES))
    tasks = {"names": Prompts(Task("names", gate[:MOST]), Task("names", fresh[:FRESH]))}
    return Model(name, model.module, partial(sampled, model.module, length=48), tasks)


SURE, APART = 0.5, 1.0
"""What a fresh prompt's answer has at least: probability, and logits before the foil."""


def _makemore(name: str, _: Path) -> Model:
    """Which letter goes on; fresh prompts are beginnings of names that the model makes up and is sure of."""
    model = load_model(SHARED / name, device="cpu")
    task = load_task(SHARED / name / "task.jsonl", vocabulary=model.facts.vocabulary)
    gate = Task("letters", task.pairs[:MOST])
    text = partial(sampled, model.module, length=10)
    seen = {pair.clean for pair in task.pairs}
    fresh = [pair for pair in _beginnings(model.module, next(text(0, rows=3000))) if pair.clean not in seen]
    return Model(name, model.module, text, {"letters": Prompts(gate, Task("letters", tuple(fresh[:FRESH])))})


@torch.no_grad()
def _beginnings(module: Any, ids: Tensor) -> list[PromptPair]:
    """Beginnings that go on with another letter than those of the same length and last letter."""
    chances = module(ids).logits.log_softmax(-1)
    groups: dict[tuple[int, int], dict[tuple[int, ...], Tensor]] = {}
    for row, of_row in zip(ids.tolist(), chances, strict=True):
        for length in range(3, 7):
            beginning = tuple(row[:length])
            if 0 not in beginning[1:]:
                groups.setdefault((length, beginning[-1]), {})[beginning] = of_row[length - 1]
    pairs = []
    for (_, last), of_group in groups.items():
        sure = [(clean, of) for clean, of in of_group.items() if of.max() > torch.tensor(SURE).log()]
        for number, (clean, of) in enumerate(sure):
            answer = int(of.argmax())
            turned = sure[number + 1 :] + sure[:number]
            other = next((one for one in turned if of[answer] - of[int(one[1].argmax())] > APART), None)
            if other is not None:
                pairs.append(PromptPair(clean, other[0], answer, int(other[1].argmax()), f"letter {last}"))
    random.Random(0).shuffle(pairs)
    return pairs


def _induction(name: str, _: Path) -> Model:
    return Model(
        name=name,
        module=known.induction_model(),
        text=known.induction_text,
        tasks={"copy": _streamed("copy", known.induction_pairs)},
        circuit=frozenset(known.INDUCTION_CIRCUIT),
    )


def _lookup(name: str, _: Path) -> Model:
    return Model(
        name=name,
        module=known.lookup_model(),
        text=known.lookup_text,
        tasks={"lookup": _streamed("lookup", known.lookup_pairs)},
        circuit=frozenset(known.LOOKUP_CIRCUIT),
    )


MODELS: Mapping[str, Callable[[str, Path], Model]] = {
    "embedded": _embedded,
    "stories260k": _stories,
    "makemore_names": _makemore,
    **dict.fromkeys(RECIPES, _trained),
    "known-induction": _induction,
    "known-lookup": _lookup,
}
"""Name to what loads it: trained here, trained by others, and two whose circuit is known."""

TASKS_OF: Mapping[str, list[str]] = {
    **{key: list(BUILT_IN) for key in ("embedded", *RECIPES)},
    "stories260k": ["names"],
    "makemore_names": ["letters"],
    "known-induction": ["copy"],
    "known-lookup": ["lookup"],
}
"""Name to its tasks, known without loading it."""
