"""What the suite's tests hold in their hands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from circuitcheck.core.errors import CircuitcheckError, ConfigurationError
from circuitcheck.plugin.cases import Case
from circuitcheck.plugin.say import fail, skip
from circuitcheck.plugin.session import GateSession
from circuitcheck.report.fields import Entry
from circuitcheck.verdict.criteria import BY_NAME


class CircuitCase:
    """One candidate on one task and kind of unit; measured when it is first asked for."""

    def __init__(self, session: GateSession, case: Case) -> None:
        self._session = session
        self._case = case
        self._properties: list[tuple[str, object]] = []

    def check(self, *criteria: str) -> None:
        """Fails the test unless every named criterion passes.

        Skips in an accepting run, which compares nothing, and, where the settings allow it, what is inconclusive.

        Args:
            criteria: names as in the report, all where none is given; those that do not apply to every measurement may
                be missing, but not all of them. `recovery` may, where the damage is too small.

        Raises:
            ConfigurationError: there is no criterion of that name.
        """
        __tracebackhide__ = True
        names = _known(criteria)
        if self._session.settings.writes_baselines:
            self._write_baseline()
        entry = self._session.entry(self._case)
        found = {criterion["name"]: criterion for criterion in entry["criteria"] if criterion["name"] in names}
        self._properties += _properties(found)
        failures, undecided = _problems(entry, names, found)
        if failures:
            fail(f"{self._case}: " + "\n".join(failures))
        if undecided:
            message = f"{self._case} is INCONCLUSIVE: " + "\n".join(undecided)
            if self._session.settings.allow_inconclusive:
                skip(message)
            fail(message)

    def take_properties(self) -> list[tuple[str, object]]:
        """What has been checked since this was last asked, as names and values for JUnit reports."""
        taken, self._properties = self._properties, []
        return taken

    def _write_baseline(self) -> None:
        __tracebackhide__ = True
        doing, done = ("calibrating", "calibrated") if self._session.settings.calibrate else ("accepting", "accepted")
        acceptance = self._session.accept(self._case)
        if isinstance(acceptance, CircuitcheckError):
            fail(f"{self._case.circuit} could not be {done}, nothing was written: {acceptance}")
        outcome = acceptance.outcome if acceptance.baseline is None else f"to be {done} at the end of the run"
        skip(f"{doing}, nothing was compared; {self._case.circuit}: {outcome}")


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [name for name in names if name not in BY_NAME]
    if unknown:
        raise ConfigurationError(f"there is no criterion {', '.join(unknown)}; known are {', '.join(BY_NAME)}.")
    return names or tuple(BY_NAME)


def _properties(found: Mapping[str, Entry]) -> Iterator[tuple[str, object]]:
    """Verdict, value, limit, interval and unit of criteria, under names that other plugins' properties do not have."""
    for name, criterion in found.items():
        low, high = criterion["value"]["interval"]
        shown = {key: criterion[key] for key in ("verdict", "relation", "limit", "unit")}
        shown |= {"value": criterion["value"]["value"], "low": low, "high": high}
        yield from ((f"circuitcheck.{name}.{key}", value) for key, value in shown.items())


def _is_needed(name: str, entry: Entry, found: Mapping[str, Entry]) -> bool:
    """Whether a criterion that is not there should be: some do not apply to everything, but one has to."""
    applies_alone = bool(found) or name == "recovery"
    return BY_NAME[name].always or not entry["repair"] or not applies_alone


def _problems(entry: Entry, names: tuple[str, ...], found: Mapping[str, Entry]) -> tuple[list[str], list[str]]:
    """What fails, and what cannot be decided."""
    if entry["verdict"] == "INCONCLUSIVE" and not entry["criteria"]:
        return [], [entry["message"]]
    if entry["message"]:
        return [entry["message"]], []
    missing = [name for name in names if name not in found and _is_needed(name, entry, found)]
    failures = [f"{name} was not measured" for name in missing]
    failures += [criterion["message"] for criterion in found.values() if criterion["verdict"] == "FAIL"]
    undecided = [criterion["message"] for criterion in found.values() if criterion["verdict"] == "INCONCLUSIVE"]
    return failures, undecided
