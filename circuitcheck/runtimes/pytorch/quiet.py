"""Keeps the libraries' own messages and progress bars out of test output, and leaves their settings as they were."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr

IMPORT_NOISE = (
    "torchao",
    "torchao.kernel.intmm",
    "torch.utils._pytree",
    "bitsandbytes.backends.cpu.ops",
    "accelerate.big_modeling",
)
"""Loggers that tell at import which optional kernels are not there, and later of what was asked for."""

CAST_LOGGER, CAST_MESSAGE = "bitsandbytes.autograd._functions", "inputs will be cast from"
"""What `Linear8bitLt` says again in every forward pass."""


@contextmanager
def quiet() -> Iterator[None]:
    """Silences transformers and the hub client for as long as the block runs."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as library

    was_enabled, hub_was_disabled = library.is_progress_bar_enabled(), are_progress_bars_disabled()
    verbosity = library.get_verbosity()
    library.set_verbosity_error()
    _turn(library.disable_progress_bar)
    try:
        with quiet_import():  # transformers imports torchao where it is installed, whatever is loaded
            yield
    finally:
        library.set_verbosity(verbosity)
        if was_enabled:
            _turn(library.enable_progress_bar)
        _turn(disable_progress_bars if hub_was_disabled else enable_progress_bars)  # which the library's turned, too


def _turn(switch: Callable[[], object]) -> None:
    """Turns a progress bar on or off; the hub client warns where HF_HUB_DISABLE_PROGRESS_BARS says otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        switch()


@contextmanager
def quiet_quantizers() -> Iterator[None]:
    """Silences torchao, bitsandbytes, compressed-tensors and gguf for as long as the block runs.

    They warn of settings that a release was saved with, and of their own deprecations; nobody who gates a release can
    change either.
    """
    quiet_bitsandbytes()
    # Their progress bars go to standard error.
    with quiet_import(), warnings.catch_warnings(), redirect_stderr(io.StringIO()), _quiet_compressed_tensors():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def quiet_import() -> Iterator[None]:
    """Keeps what torchao and bitsandbytes say at import out of the terminal; nothing that is used here is missing."""

    def never(_: logging.LogRecord) -> bool:
        return False

    loggers = [logging.getLogger(name) for name in IMPORT_NOISE]
    for logger in loggers:
        logger.addFilter(never)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(never)


def quiet_bitsandbytes() -> None:
    """Drops, for good, the one message that bitsandbytes repeats in every pass of an 8-bit module."""
    logger = logging.getLogger(CAST_LOGGER)
    if _is_no_cast not in logger.filters:
        logger.addFilter(_is_no_cast)


def _is_no_cast(record: logging.LogRecord) -> bool:
    return CAST_MESSAGE not in str(record.msg)


@contextmanager
def _quiet_compressed_tensors() -> Iterator[None]:
    """Switches its logger off and back to what it was; it writes to the standard error of when loguru was imported.

    Where the library is not imported there is nothing to switch, and loguru is not imported either: its first import
    would take the standard error of this block for the process's own.
    """
    library = sys.modules.get("compressed_tensors.logger")
    if library is None:
        yield
        return
    core = library.logger._core  # loguru tells nowhere else what is switched off
    before = core.activation_list, core.enabled
    library.logger.disable("compressed_tensors")  # replaces both
    try:
        yield
    finally:
        core.activation_list, core.enabled = before
