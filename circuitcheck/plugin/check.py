"""What the suite's tests hold in their hands."""

from __future__ import annotations

import pytest

from circuitcheck.errors import CircuitcheckError
from circuitcheck.plugin.cases import Case
from circuitcheck.plugin.session import GateSession
from circuitcheck.report.fields import Entry


class CircuitCase:
    """One candidate on one task; measured when it is first asked for."""

    def __init__(self, session: GateSession, case: Case) -> None:
        self._session = session
        self._case = case

    def check(self, *criteria: str) -> None:
        """Fails the test unless every named criterion passes.

        Skips in an accepting run, which compares nothing, and, where the settings allow it, what is inconclusive.

        Args:
            criteria: names as in the report; `recovery` may be missing where no damage is resolved.
        """
        __tracebackhide__ = True
        if self._session.settings.accept:
            self._accept()
        entry = self._session.entry(self._case)
        failures, undecided = _problems(entry, criteria)
        if failures:
            pytest.fail(f"{self._case}: " + "\n".join(failures), pytrace=False)
        if undecided:
            message = f"{self._case} is INCONCLUSIVE: " + "\n".join(undecided)
            if self._session.settings.allow_inconclusive:
                pytest.skip(message)
            pytest.fail(message, pytrace=False)

    def _accept(self) -> None:
        __tracebackhide__ = True
        acceptance = self._session.accept(self._case)
        if isinstance(acceptance, CircuitcheckError):
            message = f"{self._case.task_name} could not be accepted, nothing was written: {acceptance}"
            pytest.fail(message, pytrace=False)
        pytest.skip(f"accepting, nothing was compared; {acceptance.task}: {acceptance.outcome}")


def _problems(entry: Entry, names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """What fails, and what cannot be decided."""
    if entry["verdict"] == "INCONCLUSIVE" and not entry["criteria"]:
        return [], [entry["message"]]
    if entry["message"]:
        return [entry["message"]], []
    found = {criterion["name"]: criterion for criterion in entry["criteria"]}
    undamaged = entry["repair"] is not None and entry["repair"]["diagnosis"] in ("no damage", "unresolved")
    missing = [name for name in names if name not in found and not (name == "recovery" and undamaged)]
    failures = [f"{name} was not measured" for name in missing]
    failures += [found[name]["message"] for name in names if name in found and found[name]["verdict"] == "FAIL"]
    undecided = [found[name]["message"] for name in names if name in found and found[name]["verdict"] == "INCONCLUSIVE"]
    return failures, undecided
