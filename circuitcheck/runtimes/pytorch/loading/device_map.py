"""Where a model's weights lie while it is measured: on devices, in memory, or left in its files."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from circuitcheck.core.bounded import read_bounded
from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.phrases import extra_needed, first_lines, listed
from circuitcheck.core.strict_json import strict_json
from circuitcheck.runtimes.pytorch.environment import resolve_device

DISK = "disk"
AUTO = "auto"
WEIGHTS_SHARE = 0.5
"""Share of the budget that resident weights may take where it is told how large that is; sweeps take the rest."""

MOST_BYTES = 2**24
"""A device map is one line a module; a larger file is none."""


@dataclass(frozen=True)
class DeviceMap:
    """What a user says of where weights lie.

    Attributes:
        device_map: `auto` (as much as memory holds, the rest in its files), `disk` (every layer in its files), or a
            JSON file `{"model.layers.0": "cpu", "model.layers.1": "disk", ...}`; None for one device.
        offload: folder for weights that cannot be read as their files hold them; None for no such folder.
        memory: budget in bytes, of which resident weights take a part.
    """

    device_map: str | None = None
    offload: Path | None = None
    memory: int | None = None

    def __bool__(self) -> bool:
        """Whether anything is said of it."""
        return self.device_map is not None


def device_map_options(asked: DeviceMap, make_empty: Callable[[], nn.Module], device: torch.device) -> dict[str, Any]:
    """Options of `from_pretrained`.

    Args:
        asked: what is asked for.
        make_empty: makes the model without weights.
        device: where what is resident lies.

    Raises:
        ConfigurationError: accelerate is missing, or the map names a module or a device that is not there, or leaves
            modules out.
    """
    if find_spec("accelerate") is None:
        raise ConfigurationError(extra_needed("--circuit-device-map", "offload"))
    empty = make_empty()
    if asked.device_map == AUTO:
        found = _as_much_as_fits(empty, device, asked.memory)
    elif asked.device_map == DISK:
        found = _layers_on_disk(empty, device)
    else:
        found = _read(Path(str(asked.device_map)), empty)
    options: dict[str, Any] = {"device_map": found}
    if DISK in found.values() and asked.offload is not None:
        options["offload_folder"] = str(_folder(asked.offload))
    return options


def removed_with(module: nn.Module | None, options: dict[str, Any]) -> None:
    """The folder of weights that were written anew goes when the model does; now, where it could not be loaded."""
    folder = options.get("offload_folder")
    if folder is not None and module is None:
        shutil.rmtree(folder, ignore_errors=True)
    elif folder is not None:
        weakref.finalize(module, shutil.rmtree, folder, ignore_errors=True)


def _as_much_as_fits(empty: nn.Module, device: torch.device, memory: int | None) -> dict[str, Any]:
    from accelerate import infer_auto_device_map

    limits: dict[Any, Any] | None = None
    if memory is not None:
        limits = {_key(device): int(WEIGHTS_SHARE * memory)}
    found = infer_auto_device_map(empty, limits, no_split_module_classes=_unsplit(empty))
    return _some_resident(found, device)


def _layers_on_disk(empty: nn.Module, device: torch.device) -> dict[str, Any]:
    from accelerate import infer_auto_device_map

    found = infer_auto_device_map(empty, {_key(device): 0, "cpu": 0}, no_split_module_classes=_unsplit(empty))
    return _some_resident(found, device)


def _some_resident(found: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Something has to lie on the device that the model runs on; its smallest part does."""
    if set(found.values()) == {DISK} and len(found) > 1:
        found = found | {list(found)[-1] if "norm" not in " ".join(found) else _norm(found): _key(device)}
    return found


def _norm(found: dict[str, Any]) -> str:
    return next(name for name in reversed(found) if "norm" in name)


def _unsplit(empty: nn.Module) -> list[str]:
    return sorted(getattr(empty, "_no_split_modules", None) or [])


def _key(device: torch.device) -> Any:
    return "cpu" if device.type == "cpu" else device.index or 0


def _read(file: Path, empty: nn.Module) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigurationError(
            f"device map {str(file)!r} is neither {AUTO} nor {DISK}, and no JSON file of modules and devices is there."
        )
    try:
        found = strict_json(read_bounded(file, MOST_BYTES))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"device map {file} cannot be read: {first_lines(error)}") from error
    if not isinstance(found, dict) or not found or not all(isinstance(place, (str, int)) for place in found.values()):
        raise ConfigurationError(f"device map {file}: it must be a table of modules and devices.")
    modules = {path for path, _ in empty.named_modules()} | {name for name, _ in empty.named_parameters()}
    unknown = [name for name in found if name not in modules]
    if unknown:
        raise ConfigurationError(f"device map {file}: the model has no {listed(unknown, 4)}.")
    for place in dict.fromkeys(found.values()):
        if place != DISK:
            resolve_device(f"cuda:{place}" if isinstance(place, int) else place)
    left = [
        name
        for name, _ in empty.named_parameters()
        if not any(name == key or name.startswith(f"{key}.") or key == "" for key in found)
    ]
    if left:
        raise ConfigurationError(f"device map {file}: it does not say where {listed(left, 4)} lie.")
    if set(found.values()) == {DISK}:
        raise ConfigurationError(f"device map {file}: everything is on disk, and something has to lie where it runs.")
    return found


def _folder(parent: Path) -> Path:
    """A folder of this model's own, so that two models, or two processes, do not write the same files."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="circuitcheck-", dir=parent))
    except OSError as error:
        raise ConfigurationError(f"offload folder {parent} cannot be written to: {first_lines(error)}") from error
