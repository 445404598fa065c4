"""What exactly is measured. Two measurements are comparable only under the same specification."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from circuitcheck.core.errors import ConfigurationError

Ablation = Literal["resample", "mean", "zero"]
Positions = Literal["all", "answer"]
Sweep = Literal["exact", "screened"]
ABLATIONS: tuple[Ablation, ...] = get_args(Ablation)
POSITIONS: tuple[Positions, ...] = get_args(Positions)
SWEEPS: tuple[Sweep, ...] = get_args(Sweep)
MOST, MOST_DRAWS, MOST_LETTERS = 10**6, 10**4, 300
"""What a specification may ask for at the most: prompts, clusters and logits; bootstrap draws; letters of a name."""

METRICS = ("logit_difference", "log_probability")
"""Metrics that have a name; others are Python functions, `package.module:function`."""

CHOICES: dict[str, tuple[str, ...]] = {
    "ablation": ABLATIONS,
    "positions": POSITIONS,
    "ablate_at": POSITIONS,
    "sweep": SWEEPS,
}
"""Fields of a specification that take one of a few words."""

_NAME = r"(?:[^\W\d]\w*|<locals>|<lambda>)"
FUNCTION = re.compile(rf"[^\W\d]\w*(?:\.[^\W\d]\w*)*:{_NAME}(?:\.{_NAME})*")
"""`package.module:function`; a function inside another cannot be imported, but it has a name."""


@dataclass(frozen=True)
class MeasurementSpec:
    """The choices that change what a number means; their hash is part of every golden baseline.

    Attributes:
        unit: kind of unit that is measured, ablated and repaired; the model's runtime says which it knows.
        ablation: kind of ablation whose importances the gate compares.
        positions: positions at which z and gradients are kept: `all`, or only the `answer` position (for models whose
            baselines would be too large; drift and repair then say nothing about earlier positions).
        part: how many solved prompts drift, gradients and repair use.
        margin: a prompt is solved where the reference's preference exceeds this: the logit difference of answer and
            foil in logits, or where the metric is a Python function, that function's value.
        minimum_solved: below this share of solved prompts a task is INCONCLUSIVE.
        minimum_clusters: below this number of template clusters among the solved prompts, likewise.
        draws: bootstrap draws over clusters.
        persistence: of rank-biased overlap; the first 1 / (1 - persistence) heads carry most of the weight.
        sweep: `exact` measures every head; `screened` measures those that the reference's gradients point to and a
            random sample of the rest, for models with many heads, and says what it may have missed.
        metric: what is measured of a prompt: `logit_difference` of answer and foil, `log_probability` of the answer, or
            `package.module:function` for a Python function of the model's output.
        ablate_at: positions whose z an ablation replaces: `all`, or only the `answer` position.
        attention: attention implementation of both sides.
        seed: of the bootstrap and of the random repair orders.
    """

    unit: str = "head"
    ablation: Ablation = "resample"
    positions: Positions = "all"
    part: int = 32
    margin: float = 0.5
    minimum_solved: float = 0.5
    minimum_clusters: int = 5
    draws: int = 1000
    persistence: float = 0.9
    sweep: Sweep = "exact"
    metric: str = "logit_difference"
    ablate_at: Positions = "all"
    attention: str = "eager"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses values that no measurement can use."""
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigurationError(f"{name} is {getattr(self, name)!r}, but must be one of {', '.join(choices)}.")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.unit):  # baselines of it are called so
            raise ConfigurationError(f"unit is {self.unit!r}, but must be the name of a kind, such as head or block.")
        if self.metric not in METRICS and not FUNCTION.fullmatch(self.metric):
            raise ConfigurationError(
                f"metric is {self.metric!r}, but must be {', '.join(METRICS)}, or package.module:function."
            )
        if self.metric not in METRICS and "answer" in (self.positions, self.ablate_at):
            raise ConfigurationError(
                f"metric {self.metric} is a function of the whole output, so that the answer position is not known to "
                "be the last one; measure it with positions and ablate_at all."
            )
        if not 1 <= self.part <= MOST or not 100 <= self.draws <= MOST_DRAWS:
            raise ConfigurationError(f"part must be from 1 to {MOST} prompts, and draws from 100 to {MOST_DRAWS}.")
        if not 0 < self.minimum_solved <= 1 or not 1 <= self.minimum_clusters <= MOST:
            raise ConfigurationError(
                f"minimum_solved must be above 0 and at most 1, and minimum_clusters from 1 to {MOST}."
            )
        if not 0 < self.persistence < 1 or not 0 <= self.margin <= MOST:
            raise ConfigurationError(f"persistence must lie between 0 and 1, and margin must be from 0 to {MOST}.")
        if not 0 <= self.seed < 2**63 or max(len(self.unit), len(self.metric), len(self.attention)) > MOST_LETTERS:
            raise ConfigurationError(
                f"seed must be from 0 to 2**63 - 1, and names have at most {MOST_LETTERS} letters."
            )
        for name in ("margin", "minimum_solved", "persistence"):  # a whole number is the same choice
            object.__setattr__(self, name, float(getattr(self, name)))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all choices."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """All choices by name."""
        return asdict(self)
