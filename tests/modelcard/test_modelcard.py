"""The model card says what the report says, and nothing else in it is touched."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_reports import made_up_report

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.modelcard import card as module
from circuitcheck.modelcard.__main__ import main
from circuitcheck.modelcard.block import END, START
from circuitcheck.modelcard.card import update_card, updated

HEAD = """\
---
license: mit   # keep me
tags: [a,   b]

# a comment of its own
base_model: "old/id"  # replaced with its line
language:
    - en
model-index:
- name: mine
  results:
  - task: {type: text-generation}
    dataset: {name: GSM, type: gsm8k, extra: 1}
    metrics: [{type: acc, value: 0.5}]
# belongs to what follows
datasets:
- x
---
"""

OURS = {"base_model", "base_model_relation", "model-index"}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "mine-int8"
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(report()))
    return folder


def report(**changes) -> dict:
    known = {"candidates": ("mine-int8",), "tasks": ("ioi", "facts"), "verdicts": {("mine-int8", "facts"): "FAIL"}}
    return made_up_report(**(known | changes))


def read(folder: Path) -> str:
    return (folder / "README.md").read_bytes().decode("utf-8")


def around(text: str) -> tuple[str, str]:
    return text[: text.index(START)], text[text.index(END) + len(END) :]


# --- what it says ---


def test_features_and_what_their_dictionaries_explain_are_said(release: Path):
    made = report(verdicts={})
    features = {
        "dictionaries": [{"group": "feature 2", "explained": 0.97}],
        "explained": [0.96],
        "active": 1425,
        "surviving": {"value": 0.708, "interval": [0.662, 0.768]},
        "expected": 0.7,
        "features": [],
    }
    made["runs"] = [{**run, "unit": "feature", "features": features} for run in made["runs"]]
    (release / "report.json").write_text(json.dumps(made))
    update_card(release)
    text = read(release)
    assert re.search(r"Of 1,425 features 0\.708 .* survive, by a correlation of 0\.9", text)
    assert "plain rounding to as many bits leaves 0.700" in text
    assert "feature 2 97%" in text
    assert "Units (features) are ablated" in text


def test_how_often_routers_choose_other_experts_is_said(release: Path):
    made = report(verdicts={})
    routing = {"tokens": 1425, "changed": {"value": 0.06, "interval": [0.02, 0.1]}, "layers": []}
    made["runs"] = [{**run, "routing": routing} for run in made["runs"]]
    (release / "report.json").write_text(json.dumps(made))
    update_card(release)
    assert "Its routers choose other experts for 0.060 [0.020, 0.100] of 1,425 tokens." in unescape(read(release))


def test_a_missing_card_is_made_and_the_hub_can_read_it(release: Path):
    update_card(release, base_model="someone/base")
    text = read(release)
    card = ModelCard(text)
    assert card.data.base_model == "someone/base"
    assert card.data["base_model_relation"] == "quantized"
    assert card.data.model_name == "mine-int8"
    found = {(result.dataset_type, result.metric_type): result.metric_value for result in card.data.eval_results}
    assert found["circuitcheck/ioi", "circuitcheck_verdict"] == "PASS"
    assert found["circuitcheck/facts", "circuitcheck_verdict"] == "FAIL"
    assert found["circuitcheck/facts", "circuitcheck_profile_distance"] == 0.9
    assert {result.dataset_config for result in card.data.eval_results} == {"mine-int8"}
    assert card.text.startswith("# mine-int8\n\n" + START)
    assert "| <code>mine-int8</code> | <code>facts</code> | ❌ FAIL |" in text
    assert "0.900 [0.800, 1.000] ≤ 0.250" in text
    assert "beside its reference, <code>someone/base</code>" in text
    assert "torch 2.13.0" in text
    method = [line for line in card.text.splitlines() if line.startswith("- ")]
    assert len(method) == 3


def test_only_the_release_is_shown_where_the_report_has_more(release: Path):
    more = report(candidates=("f16", "mine-int8"))
    (release / "report.json").write_text(json.dumps(more))
    update_card(release)
    assert "<code>f16</code>" not in read(release)
    update_card(release, candidate="f16")
    assert "<code>mine-int8</code>" not in read(release)
    assert {entry["dataset"]["config"] for entry in _results(read(release))} == {"f16"}


@pytest.mark.parametrize("names", [("f16", "bf16"), ("other",)])
def test_another_candidates_verdict_never_lands_on_the_card(release: Path, names: tuple[str, ...]):
    (release / "report.json").write_text(json.dumps(report(candidates=names, verdicts={})))
    listed = ", ".join(map(repr, names))
    with pytest.raises(ConfigurationError, match=f"no candidate 'mine-int8'; it has {listed}. Name .* --candidate"):
        update_card(release)
    assert not (release / "README.md").exists()
    update_card(release, candidate=names[0])
    assert {entry["dataset"]["config"] for entry in _results(read(release))} == {names[0]}


def test_words_that_the_hub_would_take_for_something_else_are_quoted(tmp_path: Path):
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "report.json").write_text(json.dumps(report(candidates=("no",), tasks=("1_000",), verdicts={})))
    update_card(tmp_path / "no", base_model="1e3")
    card = ModelCard(read(tmp_path / "no"))
    assert card.data.base_model == "1e3"
    assert {result.dataset_config for result in card.data.eval_results} == {"no"}


def test_report_is_found_beside_or_named(release: Path, tmp_path: Path):
    (release / "circuitcheck").mkdir()
    (release / "report.json").rename(release / "circuitcheck" / "report.json")
    update_card(release)
    (release / "circuitcheck" / "report.json").rename(tmp_path / "elsewhere.json")
    with pytest.raises(ConfigurationError, match="--report FILE"):
        update_card(release)
    assert update_card(release, tmp_path / "elsewhere.json")[-1].endswith("already says so")


def test_base_model_of_the_card_is_kept_and_else_the_reports_is_taken(release: Path):
    notes = update_card(release)
    assert notes[0].startswith("base_model is 'made-up', as the report calls it")
    assert _head(read(release))["base_model"] == "made-up"
    (release / "README.md").write_text("---\nbase_model:\n- a/b\n- c/d\n---\n")
    assert len(update_card(release)) == 1
    assert _head(read(release))["base_model"] == ["a/b", "c/d"]
    assert "<code>a/b, c/d</code>" in read(release)


# --- what it leaves alone ---


def test_other_keys_comments_and_spaces_stay(release: Path):
    (release / "README.md").write_text(HEAD + "# Mine\ntext")
    update_card(release, base_model="new/id")
    text = read(release)
    assert "license: mit   # keep me\n" in text
    assert "tags: [a,   b]\n\n# a comment of its own\nbase_model: new/id\nlanguage:\n    - en\nmodel-index:\n" in text
    assert "# belongs to what follows\ndatasets:\n- x\nbase_model_relation: quantized\n---\n" in text
    head = _head(text)
    assert head["model-index"][0]["name"] == "mine"
    first, *others = head["model-index"][0]["results"]
    assert first == {
        "task": {"type": "text-generation"},
        "dataset": {"name": "GSM", "type": "gsm8k", "extra": 1},
        "metrics": [{"type": "acc", "value": 0.5}],
    }
    assert [other["dataset"]["type"] for other in others] == ["circuitcheck/ioi", "circuitcheck/facts"]
    assert around(text)[0].endswith("---\n# Mine\ntext\n\n")


def test_other_results_of_the_index_keep_comments_quotes_and_indents(release: Path):
    index = """\
model-index:  # mine
  - name: "mine"
    results:
      # by hand
      - task: {type: text-generation}
        dataset: {type: 'gsm8k', name: GSM}
        metrics: [{value: 0.50, type: acc}]  # rounded
"""
    (release / "README.md").write_text(f"---\n{index}# below\nlicense: mit\n---\n")
    update_card(release, base_model="a/b")
    text = read(release)
    assert text.startswith(f"---\n{index}      - task:\n          type: text-generation\n")
    assert "\n# below\nlicense: mit\nbase_model: a/b\nbase_model_relation: quantized\n---\n" in text
    assert len(_results(text)) == 3


@pytest.mark.parametrize(
    "form",
    [
        *("d: {a: 1,b: 2}", "l:\n    - en", "m:\n    a: 1", 'e: "caf\\u00e9"', "f: one\n  two", "q: 'one\n  two'"),
        *("? c\n: d", "t: True", "n: ~", "s : 1", "w:  1", "i: +1", "z: 1 ", "x: &x {a: 1}\ny:\n  <<: *x"),
        *("p: |\n  one\n  # two\n", "g: >-\n  one\n\n  two", "u: 'a\x85  b'", "é: 🤗", "o: 010\nh: 0x1F"),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_head_that_ruamel_would_write_in_another_way_stays(release: Path, form: str, newline: str):
    lines = f"{form}\nbase_model: old\n# note\nlast: 1\n"
    (release / "README.md").write_bytes(f"---\n{lines}---\ntext\n".replace("\n", newline).encode())
    update_card(release, base_model="new")
    kept = lines.replace("old", "new").replace("\n", newline)
    assert read(release).startswith(f"---{newline}{kept}base_model_relation: quantized{newline}model-index:{newline}")


def test_a_card_without_a_head_gets_one_in_its_own_line_ends(release: Path):
    (release / "README.md").write_bytes(b"\xef\xbb\xbf# Mine\r\n")
    update_card(release, base_model="a/b")
    text = read(release)
    assert text.startswith("\ufeff---\r\nbase_model: a/b\r\n")
    assert not re.search(r"(?<!\r)\n", text)


def test_results_of_a_task_that_is_gone_are_gone(release: Path):
    update_card(release)
    (release / "report.json").write_text(json.dumps(report(tasks=("ioi",), verdicts={})))
    update_card(release)
    assert [entry["dataset"]["type"] for entry in _results(read(release))] == ["circuitcheck/ioi"]


# Of one task: each of hundreds of examples reads and writes the head of a card several times.
PASSED = report(tasks=("ioi",), verdicts={})
FAILED = report(tasks=("ioi",), verdicts={("mine-int8", "ioi"): "FAIL"})
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@settings(max_examples=80, deadline=None)
@given(before=TEXT, after=TEXT, crlf=st.booleans())
def test_text_around_the_block_stays_byte_for_byte(before: str, after: str, crlf: bool):
    before, after = (part.replace("---", "-") for part in (before, after))
    if crlf:
        before, after = (part.replace("\n", "\r\n") for part in (before, after))
    plain = before + after
    first, _ = updated(plain, FAILED, "mine")
    bom = "\ufeff" if plain.startswith("\ufeff") else ""
    head, tail = around(first)
    own = head[len(bom) :].index("---", 3) + len(bom)
    assert head.startswith(bom + "---")
    assert head[own:].lstrip("-")[1 + ("\r\n" in plain) :].startswith(plain[len(bom) :])
    assert tail.strip() == ""
    changed = head + START + "anything" + END + tail + after
    again, _ = updated(changed, PASSED, "mine")
    assert around(again)[1] == tail + after
    assert again.split("---", 2)[2].split(START)[0] == changed.split("---", 2)[2].split(START)[0]
    assert updated(again, PASSED, "mine")[0] == again


KEYS = st.from_regex(r"[a-z_]{1,8}", fullmatch=True).filter(lambda key: key not in OURS)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None)
@given(
    keys=st.dictionaries(KEYS, VALUES, max_size=5),
    flow=st.booleans(),
    place=st.integers(0, 5),
    comments=st.booleans(),
    newline=st.sampled_from(["\n", "\r\n"]),
    old=st.sampled_from(["base_model: x/y", "base_model:\n- x/y  # why\n\n", "base_model: >-\n  x/y\n# after"]),
)
def test_other_keys_of_the_head_stay_byte_for_byte(keys, flow, place, comments, newline, old):
    parts = [
        yaml.safe_dump({key: value}, default_flow_style=flow or None, width=40).rstrip("\n")
        for key, value in keys.items()
    ]
    parts = [part.removeprefix("{").removesuffix("}") if part.startswith("{") else part for part in parts]
    if comments:
        parts = [part + "\n# note" for part in parts]
    whole = [*parts[:place], old, *parts[place:]]
    body = "\n".join(whole) + "\n"
    text = f"---\n{body}---\nrest\n".replace("\n", newline)
    if yaml.safe_load(body).keys() != keys.keys() | {"base_model"}:
        return  # a flow mapping that cannot stand at the top level
    found, _ = updated(text, PASSED, "mine", "new/id")
    assert updated(found, PASSED, "mine", "new/id")[0] == found
    head = _head(found)
    assert {key: value for key, value in head.items() if key not in OURS} == keys
    assert head["base_model"] == "new/id"
    for part in parts:
        assert part.replace("\n", newline) in found
    assert ("\r\n" in found) == (newline == "\r\n")
    assert not re.search(r"(?<!\r)\n", found) or newline == "\n"
    assert ("# after" in found) == ("# after" in old)


def test_running_it_again_writes_nothing(release: Path, monkeypatch: pytest.MonkeyPatch):
    update_card(release)
    before = read(release)

    def no_write(files):
        raise AssertionError(files)

    monkeypatch.setattr(module, "write_atomically", no_write)
    assert update_card(release)[-1].endswith("already says so")
    assert read(release) == before


# --- what it refuses ---


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (START + END + START, r"2 marker\(s\) .* and 1"),
        (START, r"1 marker\(s\) .* and 0"),
        (END + START, "in this order"),
        ("---\na: [1\n---\n", "is broken"),
        ("---\n- a\n---\n", "must be keys and values, but is a list"),
        ("---\na: 1\n--- \nx: {\n---\n", None),
        ("---\na: 1\na: 2\n---\n", "duplicate key .*in its line 2"),
        ("---\nmodel-index: 3\n---\n", "model-index must be a list"),
        ("---\n{a: 1, base_model: x}\n---\n", "in braces"),
        ("---\nbase_model: &x y\nother: *x\n---\n", "anchor"),
    ],
)
def test_a_broken_card_is_refused_and_left_alone(release: Path, text: str, message: str | None):
    (release / "README.md").write_text(text)
    if message is None:
        update_card(release, base_model="b")
        return
    with pytest.raises(ConfigurationError, match=message):
        update_card(release, base_model="b")
    assert read(release) == text


def test_what_is_missing_is_named(release: Path, tmp_path: Path):
    with pytest.raises(ConfigurationError, match="no directory"):
        update_card(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match="no candidate 'x'; it has 'mine-int8'"):
        update_card(release, candidate="x")
    (release / "README.md").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        update_card(release)
    (release / "report.json").write_text(json.dumps(report() | {"runs": [], "expected_runs": 0}))
    with pytest.raises(ConfigurationError, match="no runs"):
        update_card(release)


FORGED = {
    "a verdict that its criteria do not come to": lambda run: run.update(verdict="PASS"),
    "a criterion that its interval does not keep": lambda run: run["criteria"][5].update(verdict="PASS"),
    "both": lambda run: (run.update(verdict="PASS"), run["criteria"][5].update(verdict="PASS")),
    "the other side of a limit": lambda run: run["criteria"][5].update(relation=">=", verdict="PASS"),
    "a criterion that nobody knows": lambda run: run["criteria"][5].update(name="drift_least"),
    "a value that is not finite": lambda run: run["criteria"][0]["value"].update(value=None),
    "no criteria": lambda run: run.update(verdict="PASS", criteria=[]),
}


@pytest.mark.parametrize("forged", FORGED)
def test_a_report_that_contradicts_itself_is_refused(release: Path, forged: str):
    document = report()
    FORGED[forged](next(run for run in document["runs"] if run["verdict"] == "FAIL"))
    (release / "report.json").write_text(json.dumps(document))
    with pytest.raises(ConfigurationError, match=r"contradicts itself: mine-int8 on facts: .* Gate the release"):
        update_card(release)
    assert not (release / "README.md").exists()


def test_a_whole_runs_verdict_that_its_runs_do_not_come_to_is_refused(release: Path):
    (release / "report.json").write_text(json.dumps(report() | {"verdict": "PASS"}))
    with pytest.raises(ConfigurationError, match="its verdict is PASS, and its runs come to FAIL"):
        update_card(release)


@pytest.mark.parametrize("key", ["criteria", "verdict", "message", "candidate"])
def test_a_report_that_lacks_a_part_of_a_run_is_damaged(release: Path, key: str):
    document = report()
    del document["runs"][0][key]
    (release / "report.json").write_text(json.dumps(document))
    with pytest.raises(ConfigurationError, match="is damaged"):
        update_card(release)


def test_an_incomplete_report_is_refused_unless_that_is_allowed(release: Path):
    part = report(verdicts={}) | {"expected_runs": 5, "complete": False}
    stopped = report(verdicts={}) | {"interrupted": True}
    for document, word in ((part, "INCOMPLETE: 2 PASS, 3 of 5 not compared"), (stopped, "INTERRUPTED: 2 PASS")):
        (release / "report.json").write_text(json.dumps(document))
        with pytest.raises(ConfigurationError, match=f"the report is {word}.* --allow-incomplete"):
            update_card(release)
    (release / "report.json").write_text(json.dumps(part))
    assert main([str(release), "--allow-incomplete"]) == 0
    assert "The report is not complete" in read(release)


def test_loosened_limits_stand_beside_the_verdict(release: Path):
    document = report(verdicts={})
    document["runs"][0]["loosened"] = [{"name": "recovery", "relation": ">=", "limit": 0.0, "default": 0.5}]
    (release / "report.json").write_text(json.dumps(document))
    update_card(release)
    assert "| ✅ PASS, loosened limits |" in read(release)
    assert "Loosened limits&#58; recovery &#62;= 0 instead of 0.500." in read(release)


def test_a_failed_write_leaves_the_old_card(release: Path, monkeypatch: pytest.MonkeyPatch):
    (release / "README.md").write_text("mine")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        update_card(release)
    assert read(release) == "mine"
    assert sorted(file.name for file in release.iterdir()) == ["README.md", "report.json"]


def test_command_line(release: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(release), "--base-model", "a/b"]) == 0
    assert capsys.readouterr().out == f"wrote {release}/README.md\n"
    assert main([str(release), "--report", str(release / "none.json")]) == 1
    assert "there is no report" in capsys.readouterr().err
    assert main([str(release / "nowhere")]) == 1


def _head(text: str) -> dict:
    return yaml.safe_load(re.split(r"^---\s*$", text, maxsplit=2, flags=re.MULTILINE)[1])


def _results(text: str) -> list[dict]:
    return _head(text)["model-index"][0]["results"]


def test_a_card_that_is_a_device_is_not_read(release: Path):
    (release / "README.md").unlink(missing_ok=True)
    (release / "README.md").symlink_to("/dev/zero")
    with pytest.raises(OSError, match="it is no regular file"):
        update_card(release, base_model="a/b")
