"""The documents are true: their Python runs, their commands run, their links lead somewhere, docs/api.md is current."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from recipes import blocks

from circuitcheck.plugin.settings import OPTIONS

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = sorted((REPOSITORY / "docs").glob("*.md"))
TUTORIALS = ("concepts.md", "tasks.md", "baselines.md")
"""Their Python blocks and then their console blocks run in one folder, in order."""

LANGUAGES = {"bash", "console", "json", "python", "text", "toml", "yaml"}


def tokens(file: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(file.read_text(encoding="utf-8"))


def by_name(file: Path) -> str:
    return file.name


@pytest.mark.parametrize("name", TUTORIALS)
def test_code_of_a_tutorial_runs_from_top_to_bottom(name: str, tmp_path: Path):
    """In one process of its own, as a reader would paste it."""
    file = REPOSITORY / "docs" / name
    script = "\n\n".join(blocks(file, "python"))
    assert script
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for block in blocks(file, "console"):
        for command in block.splitlines():
            assert shlex.split(command)[0] == "pytest"
            if name == "baselines.md":
                run_pytest(command, tmp_path)


def test_a_task_of_ones_own_is_recorded_and_gated(tmp_path: Path):
    file = REPOSITORY / "docs" / "tasks.md"
    task = next(block for block in blocks(file, "python") if "giving.jsonl" in block)
    subprocess.run([sys.executable, "-c", task], cwd=tmp_path, env=clean_environment(), check=True)
    record, gate = blocks(file, "console")[0].splitlines()
    assert "20 passed" not in run_pytest(record, tmp_path)
    assert "circuit gate: PASS" in run_pytest(gate, tmp_path)


def run_pytest(command: str, folder: Path) -> str:
    """A command of a document, by this Python."""
    arguments = shlex.split(command)[1:]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def clean_environment() -> dict[str, str]:
    """This process's, outside CI: documents speak to a person at a desk."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_ADDOPTS")}
    return kept | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def test_metric_function_of_the_tutorial_gives_the_difference_at_the_mask():
    import torch

    block = next(block for block in blocks(REPOSITORY / "docs" / "tasks.md", "python") if "at_the_mask" in block)
    found: dict = {}
    exec(compile(block, "tasks.md", "exec"), found)
    logits = torch.arange(2 * 3 * 5.0).reshape(2, 3, 5)
    ids = torch.tensor([[1, 4, 2], [4, 1, 2]])
    output = type("Output", (), {"logits": logits})
    values = found["at_the_mask"](output, ids, torch.tensor([3, 0]), torch.tensor([1, 4]))
    assert values.tolist() == [2.0, -4.0]  # rows 5..9 and 15..19: 8 - 6 and 15 - 19


@pytest.mark.parametrize("file", [*DOCUMENTS, REPOSITORY / "README.md"], ids=by_name)
def test_blocks_say_their_language_and_are_written_in_it(file: Path):
    for token in tokens(file):
        if token.type not in ("fence", "code_block"):
            continue
        assert token.info.split()[:1] != [], f"{file.name}: a block without a language:\n{token.content}"
        language = token.info.split()[0]
        assert language in LANGUAGES
        if language == "python" and file.name != "api.md":  # there they are signatures
            compile(token.content, file.name, "exec")
        elif language == "json":
            assert all(json.loads(line) for line in token.content.splitlines())
        elif language == "yaml":
            yaml.safe_load(token.content)
        elif language == "toml":
            tomllib.loads(token.content)


@pytest.mark.parametrize("file", [*DOCUMENTS, REPOSITORY / "README.md"], ids=by_name)
def test_links_lead_to_files_and_pictures_have_words(file: Path):
    for token in tokens(file):
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src")
            if target is None or re.match(r"https?:|#", str(target)):
                continue
            assert (file.parent / str(target).split("#")[0]).exists(), f"{file.name}: {target}"
            if child.type == "image":
                assert len(child.content) > 20, f"{target} has no description"


@pytest.mark.parametrize("file", DOCUMENTS, ids=by_name)
def test_every_option_that_a_document_names_exists(file: Path):
    named = set(re.findall(r"--circuit-[a-z-]+", file.read_text(encoding="utf-8")))
    assert named <= {option.flag for option in OPTIONS}


def test_api_page_is_what_the_generator_gives():
    specification = importlib.util.spec_from_file_location("make_api", REPOSITORY / "docs" / "make_api.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert module.TARGET.read_text(encoding="utf-8") == module.render(), "run `python docs/make_api.py`"
