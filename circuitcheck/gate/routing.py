"""Which experts of a mixture a candidate gives tokens to, beside the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.baseline.recording import Recording
from circuitcheck.core.prompts import Prompts
from circuitcheck.core.routes import RoutedLayer, Routes, RoutesTokens, RoutingMeasure
from circuitcheck.core.runtime import Runtime
from circuitcheck.gate.sample import Sample
from circuitcheck.stats.bootstrap import mean_estimate


def routes_of(model: Runtime, part: Prompts) -> tuple[Routes, ...]:
    """The router's choice on some prompts; none of a model without routers, or of a runtime that does not show it."""
    return model.routes(part) if isinstance(model, RoutesTokens) and part.index else ()


def candidate_routes(candidate: Runtime, baseline: Recording, notes: list[str]) -> tuple[Routes, ...]:
    """A candidate's, where the baseline has the reference's; a note where they cannot be compared."""
    if not baseline.routes:
        return ()
    found = routes_of(candidate, baseline.part)
    forms = [[(one.layer, one.experts, one.chosen.shape) for one in side] for side in (baseline.routes, found)]
    if forms[0] != forms[1]:
        notes.append(
            f"The router's choice of {candidate.facts.name} is not compared: "
            + ("it has other routers." if found else "its runtime does not show it.")
        )
        return ()
    return found


def measure_routing(baseline: Recording, found: tuple[Routes, ...], part: Sample) -> RoutingMeasure | None:
    """How the choice differs; None where it is not known of both sides."""
    if not found:
        return None
    changed = [(ours.chosen != theirs.chosen).any(1) for ours, theirs in zip(baseline.routes, found, strict=True)]
    lengths = [len(baseline.task.pairs[place].clean) for place in baseline.part.index]
    starts = np.cumsum([0, *lengths[:-1]])
    # A token counts as much as any other, so a prompt by its length.
    per_prompt = np.add.reduceat(np.mean(changed, axis=0), starts) * len(lengths) / sum(lengths)
    return RoutingMeasure(
        tokens=sum(lengths),
        changed=mean_estimate(per_prompt, part.weights, part.level),
        layers=tuple(
            RoutedLayer(ours.layer, _shares(ours), _shares(theirs), float(moved.mean()))
            for ours, theirs, moved in zip(baseline.routes, found, changed, strict=True)
        ),
    )


def _shares(routes: Routes) -> tuple[float, ...]:
    counts: NDArray[Any] = np.bincount(routes.chosen.reshape(-1), minlength=routes.experts)
    return tuple((counts / len(routes.chosen)).tolist())
