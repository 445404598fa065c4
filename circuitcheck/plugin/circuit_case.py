"""What the suite's tests hold in their hands."""

from __future__ import annotations

import pytest

from circuitcheck.core.errors import CircuitcheckError
from circuitcheck.plugin.cases import Case
from circuitcheck.plugin.session import GateSession
from circuitcheck.report.fields import Entry


class CircuitCase:
    """One candidate on one task; measured when it is first asked for."""

    def __init__(self, session: GateSession, case: Case) -> None:
        self._session = session
        self._case = case
        self._properties: list[tuple[str, object]] = []

    def check(self, *criteria: str) -> None:
        """Fails the test unless every named criterion passes.

        Skips in an accepting run, which compares nothing, and, where the settings allow it, what is inconclusive.

        Args:
            criteria: names as in the report; `recovery` may be missing where the damage is too small.
        """
        __tracebackhide__ = True
        if self._session.settings.writes_baselines:
            self._write_baseline()
        entry = self._session.entry(self._case)
        self._properties += _properties(entry, criteria)
        failures, undecided = _problems(entry, criteria)
        if failures:
            pytest.fail(f"{self._case}: " + "\n".join(failures), pytrace=False)
        if undecided:
            message = f"{self._case} is INCONCLUSIVE: " + "\n".join(undecided)
            if self._session.settings.allow_inconclusive:
                pytest.skip(message)
            pytest.fail(message, pytrace=False)

    def take_properties(self) -> list[tuple[str, object]]:
        """What has been checked since this was last asked, as names and values for JUnit reports."""
        taken, self._properties = self._properties, []
        return taken

    def _write_baseline(self) -> None:
        __tracebackhide__ = True
        doing, done = ("calibrating", "calibrated") if self._session.settings.calibrate else ("accepting", "accepted")
        acceptance = self._session.accept(self._case)
        if isinstance(acceptance, CircuitcheckError):
            message = f"{self._case.task_name} could not be {done}, nothing was written: {acceptance}"
            pytest.fail(message, pytrace=False)
        pytest.skip(f"{doing}, nothing was compared; {acceptance.task}: {acceptance.outcome}")


def _properties(entry: Entry, names: tuple[str, ...]) -> list[tuple[str, object]]:
    """Verdict, value, limit, interval and unit of every criterion that was asked for."""
    found = {criterion["name"]: criterion for criterion in entry["criteria"]}
    keys = ("verdict", "value", "relation", "limit", "unit")
    properties: list[tuple[str, object]] = []
    for name in names:
        if name in found:
            criterion = found[name] | found[name]["value"]
            properties += [(f"{name}.{key}", criterion[key]) for key in keys]
            ends = zip(("low", "high"), criterion["interval"], strict=True)
            properties += [(f"{name}.{end}", value) for end, value in ends]
    return properties


def _problems(entry: Entry, names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """What fails, and what cannot be decided."""
    if entry["verdict"] == "INCONCLUSIVE" and not entry["criteria"]:
        return [], [entry["message"]]
    if entry["message"]:
        return [entry["message"]], []
    found = {criterion["name"]: criterion for criterion in entry["criteria"]}
    missing = [name for name in names if name not in found and not (name == "recovery" and entry["repair"])]
    failures = [f"{name} was not measured" for name in missing]
    failures += [found[name]["message"] for name in names if name in found and found[name]["verdict"] == "FAIL"]
    undecided = [found[name]["message"] for name in names if name in found and found[name]["verdict"] == "INCONCLUSIVE"]
    return failures, undecided
