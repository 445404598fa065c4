"""The models of one pytest process: at most one candidate, and the reference where a run needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitcheck.core.candidates import PRECISIONS, SAVED
from circuitcheck.plugin.settings import Settings

if TYPE_CHECKING:
    from circuitcheck.runtimes.pytorch.hooked import HookedModel


class Models:
    """Loads what a run's settings name, each once in a row."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._candidate: tuple[str, HookedModel] | None = None
        self._reference: HookedModel | None = None

    def candidate(self, spec: str) -> HookedModel:
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

    def _load(self, spec: str) -> HookedModel:
        settings = self._settings
        if spec in PRECISIONS:
            return self._loaded(settings.model, spec)
        as_saved = SAVED if settings.dtype == "auto" else settings.dtype
        return self._loaded(spec, as_saved, reference=settings.model)

    def _loaded(self, source: str, precision: str = "f32", **options: str) -> HookedModel:
        from circuitcheck.core.metric import metric_from_settings
        from circuitcheck.runtimes.pytorch.loading.load import load_model

        settings = self._settings
        model = load_model(source, precision, device=settings.device, download=settings.download, **options)
        return model.measured_by(metric_from_settings(settings.metric))
