"""The recipes of docs/ci.md and action.yml: valid by the services' own schemas, and run as far as bash goes."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from gate_folder import build, random_model, save_model
from recipes import Runner, blocks

REPOSITORY = Path(__file__).parents[2]
GUIDE = REPOSITORY / "docs" / "ci.md"
ACTION = yaml.safe_load((REPOSITORY / "action.yml").read_text(encoding="utf-8"))
DEFAULTS = {name: str(given.get("default", "")) for name, given in ACTION["inputs"].items()}


def recipes() -> list[dict[Any, Any]]:
    return [yaml.safe_load(block) for block in blocks(GUIDE, "yaml")]


def workflow(name: str, *, uses_action: bool = False) -> list[dict[str, Any]]:
    """Steps of the only job of a workflow."""
    jobs = [job for recipe in recipes() if recipe.get("name") == name for job in recipe["jobs"].values()]
    found = [job["steps"] for job in jobs if uses_action == any(map(is_action, job["steps"]))]
    (steps,) = found
    return steps


def is_action(step: dict[str, Any]) -> bool:
    return "circuitcheck/" in step.get("uses", "")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """A repository with a reference, a task, golden baselines, and a script that quantizes."""
    built = tmp_path_factory.mktemp("built")
    build(built)
    folder = tmp_path_factory.mktemp("source") / "repository"
    (folder / "tasks").mkdir(parents=True)
    shutil.copytree(built / "model", folder / "reference")
    shutil.copy(built / "ioi.jsonl", folder / "tasks" / "recall.jsonl")
    save_model(random_model().half(), folder / "half")
    save_model(random_model(seed=1), folder / "other")
    (folder / "quantize.sh").write_text('cp -r "${QUANTIZED:-half}" "$1"\n')
    record = [
        *("-q", "-p", "no:cacheprovider", "--pyargs", "circuitcheck.suite", "--circuit-accept=all"),
        *("--circuit-reason=first", "--circuit-model=reference", "--circuit-task=tasks/recall.jsonl"),
        *("--circuit-accept-in-ci", "--circuit-candidate=f16"),
    ]
    subprocess.run([sys.executable, "-m", "pytest", *record], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def runner(source: Path, tmp_path: Path) -> Runner:
    shutil.copytree(source, tmp_path / "repository")
    return Runner(tmp_path / "repository")


def verdicts(runner: Runner, directory: str = "circuit-report") -> set[str]:
    return {run["verdict"] for run in json.loads((runner.folder / directory / "report.json").read_text())["runs"]}


# --- their form ---


@pytest.mark.parametrize(
    ("schema", "content"),
    [
        ("vendor.github-actions", (REPOSITORY / "action.yml").read_text(encoding="utf-8")),
        *(
            ("vendor.gitlab-ci" if "jobs:" not in block else "vendor.github-workflows", block)
            for block in blocks(GUIDE, "yaml")
        ),
    ],
)
def test_recipe_is_valid_by_the_services_schema(schema: str, content: str, tmp_path: Path):
    file = tmp_path / "recipe.yml"
    file.write_text(content)
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(file)]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_a_recipe_for_every_service():
    names = [recipe.get("name", next(iter(recipe))) for recipe in recipes()]
    assert names == ["circuits", "circuits", "baselines", "circuits"]
    assert len(blocks(GUIDE, "bash")) == 3


def test_action_passes_no_input_through_the_shells_syntax():
    """An input may hold anything; it reaches bash only as a variable."""
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step.get("run", "")
        assert "run" not in step or step["shell"] == "bash"


def test_every_input_is_used_and_described():
    text = (REPOSITORY / "action.yml").read_text(encoding="utf-8")
    for name, given in ACTION["inputs"].items():
        assert given["description"]
        assert f"inputs.{name}" in text


def test_steps_give_the_action_only_inputs_that_it_has():
    (step,) = filter(is_action, workflow("circuits", uses_action=True))
    assert set(step["with"]) <= set(ACTION["inputs"])


# --- GitHub ---


def run_action(runner: Runner, **inputs: str) -> int:
    (step,) = filter(is_action, workflow("circuits", uses_action=True))
    runner.inputs = DEFAULTS | step["with"] | {name.replace("_", "-"): value for name, value in inputs.items()}
    return runner.run_steps(ACTION["runs"]["steps"])


def test_action_gates_publishes_and_says_the_verdict(runner: Runner):
    assert runner.bash("bash quantize.sh release") == 0
    assert run_action(runner, extras="torchao,gguf") == 0, runner.printed
    assert runner.installed == [f"install -c {REPOSITORY}/constraints.txt {REPOSITORY}[torchao,gguf]"]
    assert verdicts(runner) == {"PASS"}
    assert {"report.html", "report.json", "report.md", "junit.xml"} <= set(runner.uploads["circuit-report"])
    assert runner.outputs["verdict"] == {"verdict": "PASS"}
    assert runner.summary.read_text(encoding="utf-8").startswith("## Circuit gate: ✅ PASS\n")
    assert "circuit gate: PASS" in runner.printed


def test_action_is_red_and_still_publishes_where_the_gate_is_red(runner: Runner):
    assert runner.bash("bash quantize.sh release", QUANTIZED="other") == 0
    assert run_action(runner) == 1
    assert verdicts(runner) == {"FAIL"}
    assert "report.json" in runner.uploads["circuit-report"]
    assert runner.outputs["verdict"] == {"verdict": "FAIL"}
    assert "❌ FAIL" in runner.summary.read_text(encoding="utf-8")


def test_action_takes_lines_with_spaces_and_quotes_as_they_are(runner: Runner):
    names = ("my release", 'it\'s $HOME `x` "y"')
    for name in names:
        shutil.copytree(runner.folder / "half", runner.folder / name)
    code = run_action(
        runner,
        candidates="\n".join(names) + "\n",
        arguments="-k behaviour\n--co",
        artifact_name="none",
    )
    assert code in (0, 5), runner.printed
    assert all(f"{name}-recall" in runner.printed for name in names)
    assert runner.uploads == {}
    assert runner.outputs["verdict"] == {"verdict": "NONE"}


def test_action_refuses_empty_inputs_by_name(runner: Runner):
    """A variable that is not set is empty; it must not mean the copies of the reference that are gated by default."""
    runner.bash("bash quantize.sh release")
    assert run_action(runner) == 0
    for name in DEFAULTS:
        for empty in ("", " \n"):
            runner.printed = ""
            assert run_action(runner, **{name: empty}) == 1
            assert f"::error title=circuitcheck::The input {name} is empty: " in runner.printed
            assert "circuit gate" not in runner.printed
            assert runner.outputs["verdict"] == {"verdict": "NONE"}


def test_action_says_what_the_gate_says_of_a_part_and_nothing_of_a_refused_run(runner: Runner):
    """Each time a green report of an earlier run lies there."""
    runner.bash("bash quantize.sh release")
    shutil.copy(runner.folder / "tasks" / "recall.jsonl", runner.folder / "tasks" / "more.jsonl")
    assert run_action(runner) == 0
    assert runner.outputs["verdict"] == {"verdict": "PASS"}
    part = {"tasks": "tasks/recall.jsonl\ntasks/more.jsonl", "arguments": "-k recall"}
    assert run_action(runner, **part) == 10
    assert runner.outputs["verdict"] == {"verdict": "INCOMPLETE"}
    assert run_action(runner) == 0
    assert run_action(runner, arguments="--no-such-option") == 4
    assert runner.outputs["verdict"] == {"verdict": "NONE"}
    assert runner.uploads["circuit-report"] == []


def test_workflow_without_the_action(runner: Runner):
    assert runner.run_steps(workflow("circuits")) == 0, runner.printed
    assert runner.installed == ["install circuitcheck pytest-xdist"]
    assert verdicts(runner) == {"PASS"}
    assert "report.json" in runner.uploads["circuit-report"]


def test_baselines_recorded_on_the_main_branch_serve_a_pull_request(runner: Runner):
    shutil.rmtree(runner.folder / "baselines")
    assert runner.run_steps(workflow("baselines")) == 0, runner.printed
    ((key, saved),) = runner.cache.items()
    assert key.startswith("baselines-hashFiles(")
    assert sorted(file.suffix for file in saved.rglob("*.*")) == [".json", ".safetensors"]
    shutil.rmtree(runner.folder / "baselines")
    runner.bash("bash quantize.sh release")
    assert run_action(runner, baseline_cache_key="another") == 1  # red before anything is gated
    assert "circuit gate" not in runner.printed
    assert runner.outputs["verdict"] == {"verdict": "NONE"}
    assert run_action(runner, baseline_cache_key=key) == 0, runner.printed
    assert verdicts(runner) == {"PASS"}


# --- elsewhere ---


def test_gitlab_job(runner: Runner):
    (job,) = [recipe["circuits"] for recipe in recipes() if "circuits" in recipe]
    assert runner.bash("\n".join(job["script"])) == 0, runner.printed
    assert runner.installed == ["install circuitcheck"]
    assert verdicts(runner) == {"PASS"}
    paths = [*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]]
    assert all((runner.folder / path).exists() for path in paths)


def test_plain_shell_writes_the_card_only_after_a_green_gate(runner: Runner):
    shell, _, _ = blocks(GUIDE, "bash")
    assert runner.bash(shell) == 0, runner.printed
    card = (runner.folder / "release" / "README.md").read_text(encoding="utf-8")
    assert "| <code>release</code> | <code>recall</code> | ✅ PASS |" in card
    shutil.rmtree(runner.folder / "release")
    assert runner.bash(shell, PYTEST_ADDOPTS="--no-such-option") == 4
    assert not (runner.folder / "release" / "README.md").exists()


def test_parallel_run(runner: Runner):
    runner.bash("bash quantize.sh release")
    _, parallel, _ = blocks(GUIDE, "bash")
    assert runner.bash(parallel) == 0, runner.printed
    assert len(json.loads((runner.folder / "circuit-report" / "report.json").read_text())["runs"]) == 2


def test_accepting_an_intended_change(runner: Runner):
    """Refused in CI; at a desk it makes a diff that a reviewer can read, and the gate green again."""
    _, _, accept = blocks(GUIDE, "bash")
    shutil.rmtree(runner.folder / "reference")
    shutil.copytree(runner.folder / "other", runner.folder / "reference")
    runner.bash("bash quantize.sh release", QUANTIZED="other")
    file = runner.folder / "baselines" / "reference" / "recall.json"
    before = file.read_text()
    assert runner.bash(accept) != 0
    assert "CI is set" in runner.printed
    assert file.read_text() == before
    assert runner.bash(accept, CI="") == 0, runner.printed
    after = file.read_text()
    assert "retrained on more names" in after
    assert "importance" in runner.printed
    assert 1 < len(set(after.splitlines()) - set(before.splitlines())) < len(after.splitlines())


def test_every_command_names_options_that_exist():
    options = subprocess.run(
        [sys.executable, "-m", "pytest", "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    text = GUIDE.read_text(encoding="utf-8")
    named = {word.split("=")[0].strip("`,.:;()") for word in text.split() if "--circuit-" in word}
    named = {"--" + word.split("--", 1)[1].split("`")[0] for word in named}
    assert {name for name in named if name not in options} == set()


def test_commands_split_into_words():
    assert all(shlex.split(block) for block in blocks(GUIDE, "bash"))
