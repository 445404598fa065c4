"""The keep list: the fewest projection modules that must stay in high precision for a candidate to pass."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from circuitcheck.core.errors import CandidateError, ConfigurationError
from circuitcheck.core.results import Circuit, Judgement, Verdict, Word
from circuitcheck.core.runtime import Replaceable, Runtime
from circuitcheck.verdict.judgement import worst

JudgeCandidate = Callable[[Runtime], Sequence[Verdict]]
"""Measures and judges a candidate on all tasks."""

BUDGET = 200
"""The most measurements, if not told otherwise."""

HOPELESS = 1e6
"""The shortfall of what is not finite: more than any number of limits missed."""

IN_VAIN = (
    "not even with all {count} projections in high precision does it pass ({verdict}): the damage lies elsewhere, or "
    "the residual stream is in another basis, in which the reference's projections do not fit"
)


@runtime_checkable
class Keepable(Runtime, Protocol):
    """A model whose linear maps can be replaced by a reference's."""

    def replaceable(self, reference: Any) -> Replaceable:
        """What could be kept.

        Raises:
            CandidateError: nothing could.
        """

    def keeping(self, reference: Any, modules: Sequence[str]) -> AbstractContextManager[Runtime]:
        """The model with the reference's modules in some places, for as long as the block runs."""


@dataclass(frozen=True)
class KeepList:
    """Modules to keep, and what the candidate is then.

    Attributes:
        modules: paths of the linear maps inside the layers to keep; none where the candidate passes as it is, or where
            not even keeping all of them makes it pass.
        verdict: measured with exactly these kept, or with all of them where that is in vain.
        measured: how many measurements that took.
        output_layer: path of the unembedding; a list of modules to skip replaces the libraries' own, which spares it.
        message: that keeping is in vain; else empty. There is nothing to write for the libraries then.
        tensors: what llama.cpp calls the weights to keep; of modules whose names are known there.
        nodes: what the names or the metadata of their nodes in an exported ONNX graph hold.
    """

    modules: tuple[str, ...]
    verdict: Word
    measured: int
    output_layer: str | None = None
    message: str = ""
    tensors: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()

    @property
    def torchao(self) -> str:
        """The argument of transformers' `TorchAoConfig`."""
        return self._recipe("modules_to_not_convert")

    @property
    def compressed_tensors(self) -> str:
        """The argument of `QuantizationConfig`, and of llm-compressor's `QuantizationModifier`."""
        return self._recipe("ignore")

    @property
    def bitsandbytes(self) -> str:
        """The argument of transformers' `BitsAndBytesConfig`, at 8 and at 4 bits."""
        return self._recipe("llm_int8_skip_modules")

    @property
    def llama_cpp(self) -> str:
        """Arguments of llama.cpp's `llama-quantize`, whose patterns are regular expressions."""
        return " ".join(f"--tensor-type '{name.replace('.', chr(92) + '.')}=f16'" for name in self.tensors)

    @property
    def onnxruntime(self) -> str:
        """The argument of onnxruntime's `quantize_dynamic` and `quantize_static`, where `model` is the loaded graph.

        By what nodes say of the modules that they are of, because names that a graph does not have are passed over
        there in silence.
        """
        if not self.nodes:
            return ""
        is_one = f"any(name in f'{{node.name}} {{node.metadata_props}}' for name in {json.dumps(list(self.nodes))})"
        return f"nodes_to_exclude=[node.name for node in model.graph.node if {is_one}]"

    def _recipe(self, argument: str) -> str:
        skipped = [*([self.output_layer] if self.output_layer else []), *self.modules]
        return "" if self.message else f"{argument}={json.dumps(skipped)}"


class _OutOfBudgetError(Exception):
    """No measurement is left; caught here."""


class _Trials:
    """Measurements of a candidate with some modules kept, each made once."""

    def __init__(self, reference: Keepable, candidate: Keepable, judge_candidate: JudgeCandidate, most: int):
        self._models, self._judge, self._most = (reference, candidate), judge_candidate, most
        self._known: dict[frozenset[str], tuple[Word, float]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def word(self, kept: Sequence[str]) -> Word:
        """FAIL if any task fails, else INCONCLUSIVE if any is, else PASS."""
        return self._outcome(kept)[0]

    def shortfall(self, kept: Sequence[str]) -> float:
        """By how much limits are missed, 0 where none are."""
        return self._outcome(kept)[1]

    def _outcome(self, kept: Sequence[str]) -> tuple[Word, float]:
        key = frozenset(kept)
        if key not in self._known:
            if len(self._known) >= self._most:
                raise _OutOfBudgetError
            reference, candidate = self._models
            with candidate.keeping(reference, kept) as mended:
                try:
                    self._known[key] = _outcome(self._judge(mended))
                except CandidateError:  # with so little kept, values are not finite
                    self._known[key] = ("FAIL", HOPELESS)
        return self._known[key]


def find_keep_list(
    reference: Keepable,
    candidate: Keepable,
    judge_candidate: JudgeCandidate,
    *,
    budget: int = BUDGET,
    suggested: Sequence[str] = (),
) -> KeepList:
    """Searches greedily for the fewest modules that must be kept.

    Where it is known which attentions and MLPs the damage comes from, their modules are tried in that order. Else each
    module is kept alone once, and they are ordered by how much of what is missing that mends; where there are too many
    modules for the budget, they are ordered by layers. The shortest beginning of the order that passes is found by
    bisection; then each of its modules is given up, the least helpful first, where the candidate passes without it.
    What is returned was measured exactly so. It is a short list, not provably the shortest.

    Args:
        reference: the float32 reference, whose modules are put into the candidate.
        candidate: the quantized model; it is left as it was found.
        judge_candidate: measures and judges it on all tasks.
        budget: the most measurements.
        suggested: labels of attentions and MLPs, the most damaged first; see `suggested_order`.

    Returns:
        The list; none, with a message, where not even keeping all of them makes the candidate pass.

    Raises:
        ConfigurationError: a budget below 2 measurements, or no task that says anything about the candidate.
        CandidateError: the candidate has no linear map inside its layers that differs from the reference's.
    """
    if budget < 2:
        raise ConfigurationError(f"a keep list needs at least 2 measurements, not {budget}.")
    replaceable = candidate.replaceable(reference)
    trials = _Trials(reference, candidate, judge_candidate, budget)
    kept: tuple[str, ...] = ()
    if trials.word(kept) != "PASS":
        kept = replaceable.modules
        verdict = trials.word(kept)
        if verdict != "PASS":
            message = IN_VAIN.format(count=len(kept), verdict=verdict)
            return KeepList((), verdict, len(trials), replaceable.output_layer, message)
        kept = _search(replaceable, trials, budget, suggested)
    return KeepList(
        kept,
        trials.word(kept),
        len(trials),
        replaceable.output_layer,
        tensors=tuple(name for path in kept for name in replaceable.tensors.get(path, ())),
        nodes=tuple(name for path in kept for name in replaceable.nodes.get(path, ())),
    )


def suggested_order(circuit: Circuit | None) -> tuple[str, ...]:
    """Attentions and MLPs in the order in which a measurement says that they are damaged, by label.

    By what repairing each alone leaves, where that was tried; else by the fragility of units: of whole modules, or of
    the neurons of each MLP. None where neither is known.
    """
    if circuit is None:
        return ()
    if circuit.placing is not None:
        known = [module for module in circuit.placing.modules if math.isfinite(module.left)]
        return tuple(module.unit for module in sorted(known, key=lambda module: module.left))
    fragility: dict[str, float] = {}
    for unit in circuit.units:
        kind = unit.unit.split(" ")[0]
        if kind in ("attention", "mlp", "neuron"):
            label = unit.unit if kind != "neuron" else f"mlp {unit.layer}"
            fragility[label] = fragility.get(label, 0.0) + unit.fragility
    return tuple(sorted(fragility, key=lambda label: -fragility[label]))


def _search(replaceable: Replaceable, trials: _Trials, budget: int, suggested: Sequence[str]) -> tuple[str, ...]:
    """A small set that passes, given that everything does."""
    kept, blocks = replaceable.modules, replaceable.blocks
    known = [label for label in suggested if blocks.get(label)]
    groups: list[Sequence[str]] = [[path] for path in kept]
    if known:
        groups = [blocks[label] for label in (*known, *(label for label in blocks if label not in known))]
    elif len(groups) > budget // 2:
        groups = list(replaceable.layers)
    try:
        if not known:
            groups.sort(key=trials.shortfall)
        kept = _shortest_beginning(groups, trials)
        for path in reversed(kept):
            fewer = tuple(other for other in kept if other != path)
            kept = fewer if trials.word(fewer) == "PASS" else kept
    except _OutOfBudgetError:
        pass
    return kept


def _shortest_beginning(groups: Sequence[Sequence[str]], trials: _Trials) -> tuple[str, ...]:
    """By bisection, which assumes that keeping more is never worse; all groups together pass."""
    passes, fails = len(groups), 0
    while passes - fails > 1:
        middle = (passes + fails) // 2
        if trials.word(_joined(groups[:middle])) == "PASS":
            passes = middle
        else:
            fails = middle
    return _joined(groups[:passes])


def _joined(groups: Sequence[Sequence[str]]) -> tuple[str, ...]:
    return tuple(path for group in groups for path in group)


def _outcome(verdicts: Sequence[Verdict]) -> tuple[Word, float]:
    judged = [verdict for verdict in verdicts if verdict.criteria]
    if not judged:
        raise ConfigurationError("the reference solves none of these tasks, so no list of modules could be judged.")
    missed = sum(_miss(criterion) for verdict in judged for criterion in verdict.criteria)
    return worst(verdict.word for verdict in judged), missed


def _miss(criterion: Judgement) -> float:
    """How far the interval reaches beyond the limit, as a logarithm, so that no one criterion outweighs the others."""
    if criterion.verdict == "PASS":
        return 0.0
    limit = criterion.limit
    beyond = criterion.value.high - limit if criterion.relation == "<=" else limit - criterion.value.low
    return math.log1p(beyond / max(abs(limit), 1e-9)) if math.isfinite(beyond) else HOPELESS
