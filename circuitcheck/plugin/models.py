"""The models of one pytest process: at most one candidate, and the reference where a run needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitcheck.core.candidates import FLOATS, PRECISIONS
from circuitcheck.plugin.settings import Settings

if TYPE_CHECKING:
    from circuitcheck.core.runtime import Runtime
    from circuitcheck.dictionaries.dictionary import Dictionary
    from circuitcheck.runtimes.pytorch.hooked import HookedModel


class Models:
    """Loads what a run's settings name, each once in a row."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._candidate: tuple[str, Runtime] | None = None
        self._reference: HookedModel | None = None
        self._dictionaries: tuple[Dictionary, ...] | None = None

    def candidate(self, spec: str) -> Runtime:
        """A candidate by precision or path; the one before it is freed first.

        Raises:
            CircuitcheckError: it cannot be loaded.
        """
        if self._candidate is None or self._candidate[0] != spec:
            self._candidate = None
            self._candidate = spec, self._load(spec)
        return self._candidate[1]

    def reference(self) -> HookedModel:
        """The float32 reference, kept until the run ends.

        Raises:
            CircuitcheckError: it cannot be loaded.
        """
        if self._reference is None:
            self._reference = self.reload_reference()
        return self._reference

    def reload_reference(self) -> HookedModel:
        """The float32 reference, loaded anew."""
        return self._loaded(self._settings.model)

    def close(self) -> None:
        """Frees the models."""
        self._candidate = self._reference = None

    def _load(self, spec: str) -> Runtime:
        settings = self._settings
        if spec in PRECISIONS:
            return self._loaded(settings.model, spec)
        from circuitcheck.core.metric import metric_from_settings
        from circuitcheck.runtimes.choose import load_candidate
        from circuitcheck.runtimes.pytorch.hooked import HookedModel

        candidate = load_candidate(
            spec,
            settings.runtime,
            reference=settings.model,
            device=settings.device,
            dtype=settings.dtype,
            download=settings.download,
        )
        measured = candidate.measured_by(metric_from_settings(settings.metric))
        return self._with_dictionaries(measured) if isinstance(measured, HookedModel) else measured

    def _loaded(self, source: str, precision: str = "f32") -> HookedModel:
        from circuitcheck.core.metric import metric_from_settings
        from circuitcheck.runtimes.pytorch.loading.load import load_model

        settings = self._settings
        model = load_model(
            source,
            precision,
            device=settings.device,
            download=settings.download,
            # Other precisions are made in memory.
            device_map=settings.device_map if precision in FLOATS else None,
            offload=settings.offload,
            memory=settings.memory,
        )
        return self._with_dictionaries(model.measured_by(metric_from_settings(settings.metric)))

    def _with_dictionaries(self, model: HookedModel) -> HookedModel:
        if not self._settings.dictionaries:
            return model
        if self._dictionaries is None:
            from circuitcheck.dictionaries.read import read_all

            self._dictionaries = read_all(self._settings.dictionaries)
        return model.with_dictionaries(self._dictionaries)


def load_named(settings: Settings, candidate: str | None) -> Runtime:
    """A model of a run as any process of it loads it: a candidate by its name in the settings, or the reference.

    Raises:
        CircuitcheckError: it cannot be loaded.
    """
    models = Models(settings)
    return models.reference() if candidate is None else models.candidate(candidate)
