"""The baselines of one recording from its parts: all of them are written together, or none is."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from circuitcheck.baseline.baseline import MOST_JSON, Baseline, save_all
from circuitcheck.core.bounded import read_bounded
from circuitcheck.core.errors import BaselineError
from circuitcheck.core.phrases import listed
from circuitcheck.merge.part import Part, Recorded, failures


def merge_baselines(parts: Sequence[Part], folder: Path) -> list[Path]:
    """Writes what all parts recorded.

    Args:
        parts: all of them; of a recording.
        folder: of all baselines; those of the model lie in a folder of it.

    Returns:
        The files that were written.

    Raises:
        BaselineError: a part could not record something, a baseline is not what it recorded, or nothing can be written.
    """
    failed = list(failures(parts))
    if failed:
        raise BaselineError(f"nothing was written, because tasks are written together: {listed(failed, 5, '; ')}")
    models = {part.model for part in parts}
    if len(models) > 1 or not all(_is_name(model) for model in models):
        raise BaselineError(
            f"the parts recorded {listed(sorted(map(repr, models)), 3)}: no one model can be called so."
        )
    baselines = [_load(part, one) for part in parts for one in part.recorded]
    weights = {baseline.fingerprints["weights"][:12] for baseline in baselines}
    if len(weights) > 1:
        raise BaselineError(f"the parts recorded other weights each ({listed(sorted(weights), 3)}); record one model.")
    names = [one.name for part in parts for one in part.recorded]
    if len(set(names)) < len(names):
        raise BaselineError("two parts recorded the same baseline, so one of their files was changed. Run them again.")
    return save_all(baselines, folder / models.pop()) if baselines else []


def _load(part: Part, one: Recorded) -> Baseline:
    folder = Path(part.file).parent / part.name / part.model
    if not _is_name(one.name):
        raise BaselineError(f"part {part.file} is damaged: no baseline can be called {one.name[:100]!r}.")
    file = folder / one.name
    try:
        digest = hashlib.sha256(read_bounded(file, MOST_JSON)).hexdigest()
    except OSError as error:
        raise BaselineError(
            f"baseline {file} of shard {part.shard} cannot be read: {error.strerror}. Keep the folder {part.name} "
            "beside its file."
        ) from error
    if digest != one.sha256:
        raise BaselineError(f"baseline {file} is not the one that shard {part.shard} recorded. Run that shard again.")
    return Baseline.load(file)


def _is_name(text: str) -> bool:
    return bool(text) and not text.startswith(".") and Path(text).name == text and "\\" not in text
