"""Loading prints nothing, and leaves the libraries' settings as they were."""

from __future__ import annotations

import importlib
import logging as standard_logging
import subprocess
import sys
from contextlib import suppress

import model_directories
import pytest
import transformers
from transformers.utils import logging

from circuitcheck.core.errors import ModelError
from circuitcheck.runtimes.pytorch.loading.load import load_model
from circuitcheck.runtimes.pytorch.quiet import quiet_quantizers

hub_bars = importlib.import_module("huggingface_hub.utils.tqdm")


@pytest.fixture
def directory(tmp_path):
    """With a config that transformers warns of: its end token is not in the vocabulary."""
    directory = model_directories.save_tiny(tmp_path / "tiny")
    model_directories.save_word_tokenizer(directory)
    model_directories.change_config(directory, eos_token_id=50256)
    return directory


@pytest.fixture(autouse=True)
def _restore_settings(monkeypatch):
    monkeypatch.setattr(hub_bars, "progress_bar_states", {})
    monkeypatch.setattr(hub_bars, "HF_HUB_DISABLE_PROGRESS_BARS", None)
    monkeypatch.setattr(logging, "_tqdm_active", True)
    verbosity = logging.get_verbosity()
    yield
    logging.set_verbosity(verbosity)


@pytest.fixture
def logged():
    """What the library's logger lets through; its own handler may hold another standard error than the test's."""
    records = []

    class Collect(standard_logging.Handler):
        def emit(self, record):
            records.append(record.getMessage())

    collect = Collect()
    logging.add_handler(collect)
    logging.set_verbosity_warning()
    yield records
    logging.remove_handler(collect)


@pytest.mark.parametrize("precision", ["f32", "f16", "int8-sim", "saved"])
def test_loading_prints_nothing(directory, capfd, logged, precision):
    load_model("embedded", precision)
    load_model(directory, precision)
    assert (capfd.readouterr(), logged) == (("", ""), [])


def test_refusing_prints_nothing(directory, capfd, logged):
    model_directories.change_weights(directory, lambda tensors: tensors.popitem())
    with pytest.raises(ModelError):
        load_model(directory)
    assert (capfd.readouterr(), logged) == (("", ""), [])


@pytest.mark.parametrize("loader", ["AutoModelForCausalLM", "AutoTokenizer"])
def test_the_librarys_warnings_are_not_logged(directory, logged, monkeypatch, loader):
    """Its own are often said once a process, so that a test would not meet them again."""
    own = getattr(transformers, loader)
    original = own.from_pretrained

    def warn(*arguments, **options):
        logging.get_logger("transformers.own").warning("as many loaders do")
        return original(*arguments, **options)

    monkeypatch.setattr(own, "from_pretrained", warn)
    load_model(directory)
    assert logged == []
    own.from_pretrained(directory)
    assert "as many loaders do" in logged


@pytest.mark.parametrize("sound", [True, False])
@pytest.mark.parametrize("verbosity", [logging.DEBUG, logging.ERROR])
@pytest.mark.parametrize("own_bars", [True, False])
@pytest.mark.parametrize("hubs_bars", [True, False])
def test_settings_are_left_as_they_were(directory, sound, verbosity, own_bars, hubs_bars):
    if not sound:
        model_directories.change_weights(directory, lambda tensors: tensors.popitem())
    logging.set_verbosity(verbosity)
    (logging.enable_progress_bar if own_bars else logging.disable_progress_bar)()
    (hub_bars.enable_progress_bars if hubs_bars else hub_bars.disable_progress_bars)()
    try:
        load_model(directory)
        assert sound
    except ModelError:
        assert not sound
    assert logging.get_verbosity() == verbosity
    assert logging.is_progress_bar_enabled() is own_bars
    assert hub_bars.are_progress_bars_disabled() is not hubs_bars


@pytest.mark.parametrize("fixed", [True, False])
def test_a_progress_bar_setting_in_the_environment_is_no_obstacle(directory, monkeypatch, fixed):
    """The hub client warns when it is asked against its environment variable, and warnings may be errors."""
    monkeypatch.setattr(hub_bars, "HF_HUB_DISABLE_PROGRESS_BARS", fixed)
    monkeypatch.setattr(logging, "_tqdm_active", not fixed)
    load_model(directory)
    assert logging.is_progress_bar_enabled() is not fixed


def heard(name):
    """What loguru lets through of a message that a module of that name logs."""
    loguru = pytest.importorskip("loguru")
    messages = []
    sink = loguru.logger.add(lambda message: messages.append(message.record["message"]), level=0)
    exec("logger.info('here')", {"__name__": name, "logger": loguru.logger})
    loguru.logger.remove(sink)
    return messages == ["here"]


@pytest.mark.parametrize("sound", [True, False])
@pytest.mark.parametrize(
    ("switch", "name", "before"),
    [
        ("disable", "compressed_tensors", False),
        ("enable", "compressed_tensors", True),
        ("disable", "compressed_tensors.compressors", False),
        ("disable", "", False),
    ],
)
def test_compressed_tensors_logger_is_left_as_it_was(sound, switch, name, before):
    loguru = pytest.importorskip("loguru")
    importlib.import_module("compressed_tensors")
    asked, other = f"{name or 'compressed_tensors'}.inside", "somebody.else"
    try:
        getattr(loguru.logger, switch)(name)
        known = heard(other)
        with suppress(ValueError), quiet_quantizers():
            assert not heard(asked)
            assert heard(other) is known
            if not sound:
                raise ValueError
        assert heard(asked) is before
        assert heard(other) is known
    finally:
        loguru.logger.enable("")


def test_loguru_is_not_imported_where_nobody_uses_it():
    """Its first import takes the standard error of that moment for the process's own."""
    code = """
import sys
from circuitcheck.runtimes.pytorch.quiet import quiet_quantizers
with quiet_quantizers():
    pass
assert "loguru" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
