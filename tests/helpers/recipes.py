"""Runs CI recipes without the service: `run` steps in bash, `uses` steps replaced by what they leave behind."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

SHIM = """#!{python}
import os, sys
arguments = sys.argv[1:]
if arguments[:2] == ["-m", "pip"]:
    with open({log!r}, "a") as log:
        log.write(" ".join(arguments[2:]) + "\\n")
    sys.exit(0)
os.execv({python!r}, [{python!r}, *arguments])
"""
"""A `python` that notes what it is to install, and installs nothing."""


@dataclass
class Runner:
    """A folder in which the steps of a job run, one after the other.

    Attributes:
        folder: the checked-out repository.
        inputs: of the action.
        log: what was installed, one command a line.
        uploads: artifact name to the files in it.
        cache: key to a saved folder.
        outputs: step id to its outputs.
    """

    folder: Path
    inputs: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    uploads: dict[str, list[str]] = field(default_factory=dict)
    cache: dict[str, Path] = field(default_factory=dict)
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    printed: str = ""

    def __post_init__(self) -> None:
        self.state = self.folder.parent / "runner"
        (self.state / "bin").mkdir(parents=True)
        shim = self.state / "bin" / "python"
        shim.write_text(SHIM.format(python=sys.executable, log=str(self.state / "pip.log")))
        shim.chmod(0o755)
        self.summary = self.state / "summary.md"

    @property
    def installed(self) -> list[str]:
        log = self.state / "pip.log"
        return log.read_text().splitlines() if log.exists() else []

    def run_steps(self, steps: list[dict[str, Any]]) -> int:
        """Runs a job's steps as a runner does: after a failure only those that always run.

        Returns:
            The exit code of the first step that failed, or 0.
        """
        code = 0
        for step in steps:
            condition = str(step.get("if", ""))
            if (code and "always()" not in condition) or not self._holds(condition):
                continue
            found = self._use(step) if "uses" in step else self._run(step)
            code = code or found
        return code

    def bash(self, script: str, **environment: str) -> int:
        """One script, with the shim first on the path."""
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=self.folder,
            env=self._environment() | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        self.printed += done.stdout + done.stderr
        return done.returncode

    def _run(self, step: dict[str, Any]) -> int:
        output = self.state / "output"
        output.write_text("")
        given = {name: self._filled(str(value)) for name, value in step.get("env", {}).items()}
        code = self.bash(step["run"], GITHUB_OUTPUT=str(output), GITHUB_STEP_SUMMARY=str(self.summary), **given)
        if "id" in step:
            self.outputs[step["id"]] = dict(line.split("=", 1) for line in output.read_text().splitlines())
        return code

    def _use(self, step: dict[str, Any]) -> int:
        name = step["uses"].split("@")[0]
        given = {key: self._filled(str(value)) for key, value in step.get("with", {}).items()}
        if name in ("actions/checkout", "actions/setup-python"):
            return 0
        if name == "actions/upload-artifact":
            root = self.folder / given["path"]
            self.uploads[given["name"]] = sorted(str(file.relative_to(root)) for file in root.rglob("*"))
            return 0
        if name == "actions/cache/save":
            saved = self.state / "cache" / str(len(self.cache))
            shutil.copytree(self.folder / given["path"], saved)
            self.cache[given["key"]] = saved
            return 0
        if name == "actions/cache/restore":
            if given["key"] not in self.cache:
                return 1 if given.get("fail-on-cache-miss") in ("true", "True") else 0
            shutil.copytree(self.cache[given["key"]], self.folder / given["path"], dirs_exist_ok=True)
            return 0
        raise AssertionError(f"a recipe uses {name}, which these tests do not know")

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GITHUB_", "PYTEST_"))}
        path = f"{self.state / 'bin'}:{Path(sys.executable).parent}:{kept['PATH']}"
        known = {"PATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CI": "true", "GITHUB_SHA": "abc"}
        return kept | known | self.environment

    def _filled(self, text: str) -> str:
        """The text with its expressions replaced; hashes stand for themselves."""
        values = {f"inputs.{name}": value for name, value in self.inputs.items()}
        values |= {"github.action_path": str(Path(__file__).parents[2])}
        return re.sub(
            r"\$\{\{\s*(.*?)\s*\}\}",
            lambda found: found[1] if found[1].startswith("hashFiles(") else values[found[1]],
            text,
        )

    def _holds(self, condition: str) -> bool:
        for part in filter(None, condition.replace("always()", "").split("&&")):
            found = re.fullmatch(r"\s*inputs\.([\w-]+) != 'none'\s*", part)
            if part.strip():
                assert found, f"unknown condition {condition!r}"
                if self.inputs[found[1]] == "none":
                    return False
        return True


def blocks(file: Path, language: str) -> list[str]:
    """The code blocks of a document in one language."""
    tokens = MarkdownIt("commonmark").parse(file.read_text(encoding="utf-8"))
    return [token.content for token in tokens if token.type == "fence" and token.info.split()[:1] == [language]]
