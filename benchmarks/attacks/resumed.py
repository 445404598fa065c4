"""Runs that are killed anywhere and started again: they end with the baselines of a run that nobody disturbed."""

from __future__ import annotations

import random
import shutil
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

import gate_folder

from attacks.attempts import Tally
from attacks.storage import accept, in_child, kill, timed

TASK, REASON, KEPT = "ioi", "resumed", "kept"


def attack_resumes(kills: int, seed: int = 0) -> Tally:
    """Kills of a whole `pytest --circuit-accept=all --circuit-resume`, each of which is then started once more."""
    folder = Path(mkdtemp(prefix="attack-"))
    gate_folder.build(folder, record=False)
    (folder / "test_gate.py").write_text(gate_folder.GATE_TESTS)
    tables = f'[tool.circuitcheck]\nmodel = "model"\ncandidates = ["f16"]\ntasks = ["{TASK}.jsonl"]\n'
    (folder / "pyproject.toml").write_text('[tool.pytest.ini_options]\nfilterwarnings = ["error"]\n' + tables)
    took = timed(lambda: in_child(partial(accept, folder, REASON)))
    expected = _taken(folder)
    assert expected, "the run that nobody disturbs writes its baseline"
    resuming = partial(accept, folder, REASON, f"--circuit-resume={KEPT}")
    tally, chance = Tally("kills of a run that goes on"), random.Random(seed)
    for _ in range(kills):
        _taken(folder)
        shutil.rmtree(folder / KEPT, ignore_errors=True)
        kill(resuming, chance.uniform(0, 1.05 * took))
        kept = len([path for path in (folder / KEPT).rglob("*") if path.is_file()])
        in_child(resuming)
        word = "unchanged" if _taken(folder) == expected else "another baseline"
        tally.note(f"{word} ({'went on' if kept else 'nothing was finished'})", f"{kept} files were kept")
    return tally


def _taken(folder: Path) -> dict[str, bytes]:
    """What was written as baselines, which are then no longer there."""
    files = [file for file in (folder / "baselines").rglob("*") if file.is_file()]
    found = {file.name: file.read_bytes() for file in files}
    shutil.rmtree(folder / "baselines", ignore_errors=True)
    return found
