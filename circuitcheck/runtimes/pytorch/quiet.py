"""Keeps the libraries' own messages and progress bars out of test output, and leaves their settings as they were."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

from circuitcheck.runtimes.pytorch.quantizers.native import quiet_bitsandbytes, quiet_import


@contextmanager
def quiet() -> Iterator[None]:
    """Silences transformers and the hub client for as long as the block runs."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    was_enabled, hub_was_disabled = logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    verbosity = logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where HF_HUB_DISABLE_PROGRESS_BARS=0 is set
        logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with quiet_import():  # transformers imports torchao where it is installed, whatever is loaded
            yield
    finally:
        logging.set_verbosity(verbosity)
        if was_enabled:
            logging.enable_progress_bar()
        # The library's switch turns the hub's, too.
        if hub_was_disabled and not are_progress_bars_disabled():
            disable_progress_bars()
        elif not hub_was_disabled and are_progress_bars_disabled():
            enable_progress_bars()


@contextmanager
def quiet_quantizers() -> Iterator[None]:
    """Silences torchao, bitsandbytes, compressed-tensors and gguf for as long as the block runs.

    They warn of settings that a release was saved with, and of their own deprecations; nobody who gates a release can
    change either.
    """
    quiet_bitsandbytes()
    # Their progress bars go to standard error.
    with quiet_import(), warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        _loguru(False)
        try:
            yield
        finally:
            _loguru(True)


def _loguru(on: bool) -> None:
    """Switches compressed-tensors' logger, which writes to the standard error of the time when it was imported."""
    try:
        from loguru import logger
    except ImportError:
        return
    (logger.enable if on else logger.disable)("compressed_tensors")
