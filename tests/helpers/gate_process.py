"""The gate as a user runs it: pytest in a process of its own, on an installed package, from a folder of the user's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Desk:
    """A user's folder.

    Attributes:
        folder: where baselines and reports lie.
        model: the reference, by path or hub id.
        task: a file in the folder.
    """

    folder: Path
    model: Path | str
    task: str

    def gate(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs the suite; warnings are errors."""
        command = [
            *(sys.executable, "-W", "error", "-m", "pytest", "-p", "no:benchmark", "-p", "no:hypothesispytest"),
            *("-p", "no:cacheprovider", "--pyargs", "circuitcheck.suite", f"--circuit-model={self.model}"),
            *(f"--circuit-task={self.task}", *arguments),
        ]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        return subprocess.run(
            command, cwd=self.folder, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def report(self, directory: str = "out") -> dict[str, Any]:
        """Candidate to its entry in report.json."""
        content = json.loads((self.folder / directory / "report.json").read_text())
        return {entry["candidate"]: entry for entry in content["runs"]}
