"""What becomes of the baselines of one run, made by whichever of its processes comes first."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitcheck.core.errors import CircuitcheckError
from circuitcheck.plugin.cases import Case
from circuitcheck.plugin.store import Store

if TYPE_CHECKING:
    from circuitcheck.gate.accept import Acceptance


@dataclass(frozen=True)
class Acceptances:
    """Keeps, in the store of the run, what is to become of baselines, each under the first case of its circuit.

    Attributes:
        store: what the processes of the run share.
        made_here: what this process made itself.
    """

    store: Store
    made_here: dict[Case, Acceptance] = field(default_factory=dict)

    def of(self, case: Case, make: Callable[[], Acceptance]) -> Acceptance:
        """What is to become of it, made by the first process that asks, while the others wait.

        Raises:
            CircuitcheckError: as `make` does; nothing is kept then.
        """
        kept = self.store.get_or_make(_name(case), lambda: self._noted(case, make()))
        return self.made_here.get(case) or _acceptance(kept)

    def make_if_free(self, case: Case, make: Callable[[], Acceptance]) -> None:
        """Makes it unless another process has, or is about to; where it cannot be, who asks for it will say so."""
        with suppress(CircuitcheckError):
            self.store.make_if_free(_name(case), lambda: self._kept(case, make()))

    def _noted(self, case: Case, acceptance: Acceptance) -> dict[str, Any]:
        """That this process has it; nobody else asks for what it made."""
        self.made_here[case] = acceptance
        return {}

    def _kept(self, case: Case, acceptance: Acceptance) -> dict[str, Any]:
        file = ""
        if acceptance.baseline is not None:
            folder = self.store.directory / _name(case)
            file = next(str(path) for path in acceptance.baseline.save(folder) if path.suffix == ".json")
        return {"task": acceptance.task, "outcome": acceptance.outcome, "details": acceptance.details, "file": file}


def _name(case: Case) -> str:
    return f"accepted-{case.number:04d}"


def _acceptance(kept: dict[str, Any]) -> Acceptance:
    from circuitcheck.baseline.baseline import Baseline
    from circuitcheck.gate.accept import Acceptance

    baseline = Baseline.load(Path(kept["file"])) if kept["file"] else None
    return Acceptance(kept["task"], kept["outcome"], tuple(kept["details"]), baseline)
