"""Scores of the detectors; the larger, the more suspicious."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from circuitcheck.core.results import Judgement, Verdict
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from detection.captured import captured

BATCH = 64
"""Rows of the evaluation text in one forward pass."""

NOTHING_LEFT = 1e-6
"""Room to its limit below which a criterion's score no longer falls; its logarithm has to end somewhere."""

OURS = "circuitcheck"
OUTPUTS = ("kl", "changed_argmax", "perplexity_change", "sqnr", "cosine")
TASKS = ("logit_difference", "accuracy")


@dataclass(frozen=True)
class Outputs:
    """What a model says about a text.

    Attributes:
        log_probabilities: of the next token, `[rows, seq - 1, vocabulary]`, float32.
        hidden: what every layer gives, `[layers, rows, seq, d_model]`, float32.
        ids: the text, `[rows, seq]`.
    """

    log_probabilities: Tensor
    hidden: Tensor
    ids: Tensor


@torch.no_grad()
def outputs(model: HookedModel, ids: Tensor) -> Outputs:
    """Runs a text, in batches as the model allows."""
    size = min(BATCH, model.batch_size or BATCH)
    logits, hidden = [], []
    paths = [site.path for site in model.structure.layers]
    for start in range(0, len(ids), size):
        with captured(model.module, paths) as layers:
            result = model.module(ids[start : start + size])
        logits.append(result.logits[:, :-1].float().log_softmax(-1))
        hidden.append(torch.stack([layer[0] if isinstance(layer, tuple) else layer for layer in layers]).float())
    return Outputs(torch.cat(logits), torch.cat(hidden, dim=1), ids)


def output_scores(reference: Outputs, candidate: Outputs) -> dict[str, float]:
    """What gates look at today.

    Returns:
        `kl`: KL(reference || candidate) of the next token, mean over positions, in nats; `changed_argmax`: share of
        positions whose likeliest token changed; `perplexity_change`: relative increase of the perplexity; `sqnr`: minus
        the smallest signal-to-quantization-noise ratio of a layer's output, in dB; `cosine`: 1 minus the smallest mean
        cosine of a layer's output.
    """
    before, after = reference.log_probabilities, candidate.log_probabilities
    next_ids = reference.ids[:, 1:, None]
    divergence = (before.exp() * (before - after)).sum(-1).double().mean()
    loss = (before.gather(-1, next_ids) - after.gather(-1, next_ids)).double().mean()
    noise = (reference.hidden - candidate.hidden).double().square().sum(dim=(1, 2, 3))
    signal = reference.hidden.double().square().sum(dim=(1, 2, 3))
    cosines = torch.nn.functional.cosine_similarity(reference.hidden.double(), candidate.hidden.double(), dim=-1)
    return {
        "kl": max(float(divergence), 0.0),
        "changed_argmax": float((before.argmax(-1) != after.argmax(-1)).double().mean()),
        "perplexity_change": math.expm1(float(loss)),
        "sqnr": float((10 * torch.log10(noise / signal)).max()),
        "cosine": float((1 - cosines.mean(dim=(1, 2))).max()),
    }


def task_scores(verdicts: Iterable[Verdict]) -> dict[str, float]:
    """`logit_difference`: largest relative change of a task's mean; `accuracy`: largest share of prompts lost."""
    circuits = [verdict.measurement.circuit for verdict in verdicts]
    measured = [circuit for circuit in circuits if circuit is not None]
    return {
        "logit_difference": max(abs(circuit.metric_cand.value / circuit.metric_ref.value - 1) for circuit in measured),
        "accuracy": max(1 - circuit.behaviour_kept.value for circuit in measured),
    }


def criterion_score(criterion: Judgement) -> float:
    """Logarithm of how much of its allowance a criterion uses at the worse end of its interval.

    The allowance of a criterion that must stay below its limit is the limit, and that of a share that must stay above
    it is what is left to 1. Above 0 exactly where the criterion does not pass.
    """
    low, high, limit = criterion.value.low, criterion.value.high, criterion.limit
    if not math.isfinite(low + high):
        return math.inf
    used, allowed = (high, limit) if criterion.relation == "<=" else (1 - low, 1 - limit)
    if allowed <= 0:
        return math.inf if used > allowed else -math.inf
    score = math.log(max(used / allowed, NOTHING_LEFT))
    return min(score, 0.0) if criterion.verdict == "PASS" else max(score, math.ulp(0.0))


def our_scores(verdicts: Mapping[str, Verdict]) -> dict[str, float]:
    """The verdict's score, which is above 0 exactly where a task does not pass, and each criterion's, over all tasks.

    A criterion that is defined for some candidates only, such as recovery where there is damage, scores least where it
    is not.
    """
    scores: dict[str, float] = {}
    for verdict in verdicts.values():
        for criterion in verdict.criteria:
            score = criterion_score(criterion)
            scores[criterion.name] = max(scores.get(criterion.name, -math.inf), score)
    undecided = any(not verdict.criteria for verdict in verdicts.values())
    return {OURS: math.inf if undecided else max(scores.values()), **scores}


def word(verdicts: Iterable[Verdict]) -> str:
    """The verdict over all tasks: FAIL if one fails, else INCONCLUSIVE if one is, else PASS."""
    words = {verdict.word for verdict in verdicts}
    return "FAIL" if "FAIL" in words else "INCONCLUSIVE" if "INCONCLUSIVE" in words else "PASS"
