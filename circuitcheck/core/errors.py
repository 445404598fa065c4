"""Every error that circuitcheck raises on purpose. Each message names the thing and the way out."""

from __future__ import annotations

from circuitcheck.core.people import plain_lines


class CircuitcheckError(Exception):
    """Base class; catch it to catch everything below. Strangers' words in its message are shown, and never obeyed."""

    def __str__(self) -> str:
        """The message for people; `args` has it as it was given."""
        return plain_lines(super().__str__())


class ConfigurationError(CircuitcheckError):
    """An option, a key of `[tool.circuitcheck]`, a limit or a precision name that cannot be used."""


class ModelError(CircuitcheckError):
    """A model or tokenizer that cannot be loaded as asked: missing, incomplete, pickled or of another shape."""


class SiteError(CircuitcheckError):
    """A model whose attention heads cannot be found, or whose hooks fail a proof."""


class DictionaryError(CircuitcheckError):
    """A dictionary of features that cannot be read, or that does not fit the model."""


class TaskError(CircuitcheckError):
    """A task file or a prompt that cannot be measured; lists every bad line at once."""


class BaselineError(CircuitcheckError):
    """A golden baseline that is missing, unreadable, corrupt or edited by hand."""


class StaleBaselineError(BaselineError):
    """A golden baseline of another model, tokenizer, prompt set, measurement spec or schema."""


class CandidateError(CircuitcheckError):
    """A candidate that cannot be compared: another shape, or values that are not finite."""


class ModelChangedError(CircuitcheckError):
    """A measurement left hooks, parameters or training flags other than it found them."""


class MemoryBudgetError(CircuitcheckError):
    """A measurement that does not fit the memory budget, or the machine, even one prompt and head set at a time."""
