"""A release's README.md with the verdict in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from circuitcheck.baseline.atomic import write_atomically
from circuitcheck.core.bounded import read_bounded
from circuitcheck.core.errors import ConfigurationError
from circuitcheck.modelcard.block import END, START, render_block
from circuitcheck.modelcard.front_matter import newline_of, read_head, replaced, split_card
from circuitcheck.modelcard.model_index import card_values, merge_results
from circuitcheck.report.compare import load_report
from circuitcheck.report.fields import Entry
from circuitcheck.report.rows import outcome

MOST_BYTES = 2**24
"""Of a card that is read."""

PLACES = ("report.json", "circuitcheck/report.json")
"""Where a release's report is looked for."""

BOM = "\ufeff"


def update_card(
    directory: str | Path,
    report: str | Path | None = None,
    *,
    base_model: str | None = None,
    candidate: str | None = None,
    allow_incomplete: bool = False,
) -> list[str]:
    """Puts the verdict into `README.md` of a release, and leaves everything else in it byte for byte as it was.

    Args:
        directory: the release.
        report: the report's file; looked for in the directory if not given.
        base_model: the reference's id on the hub; if not given, what the card names, or else the report.
        candidate: which of the report's candidates the release is; if not given, the one that is called like the
            directory.
        allow_incomplete: whether a report may be shown that does not hold all that was to be compared, as the card then
            says.

    Returns:
        What was done, for a person.

    Raises:
        ConfigurationError: there is no such directory, report or candidate, the report is incomplete or contradicts
            itself, or the card is broken.
        OSError: the card cannot be written.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise ConfigurationError(f"there is no directory {folder}. Name the release that the model card belongs to.")
    document = load_report(report or _find_report(folder))
    _require_whole(document, allow_incomplete)
    document = document | {"runs": _runs_of(document, folder, candidate)}
    file, name = folder / "README.md", folder.resolve().name
    try:
        before = read_bounded(file, MOST_BYTES).decode("utf-8") if file.exists() else None
        text, notes = updated(f"# {name}\n" if before is None else before, document, name, base_model)
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not UTF-8: {error}. Save it as UTF-8; it was left as it is.") from error
    except ConfigurationError as error:
        raise ConfigurationError(f"{file} was left as it is: {error}") from error
    if text == before:
        return [*notes, f"{file} already says so"]
    write_atomically({file: text.encode()})
    return [*notes, f"wrote {file}"]


def updated(text: str, document: Mapping[str, Any], name: str, base_model: str | None = None) -> tuple[str, list[str]]:
    """A card with the verdict in it.

    Args:
        text: the card as it is.
        document: the report of this release alone.
        name: of the release.
        base_model: the reference's id on the hub.

    Returns:
        The card, and what a person must know.

    Raises:
        ConfigurationError: the card is broken.
    """
    plain = text.removeprefix(BOM)
    newline = newline_of(plain)
    opening, head, rest = split_card(plain)
    present, notes = read_head(head).get("base_model"), []
    if not (base_model or present):
        base_model = str(document["runs"][0]["model"])
        notes.append(f"base_model is {base_model!r}, as the report calls it; give --base-model for its id on the hub")
    ours = card_values(document, name, base_model)
    base = ours.setdefault("base_model", present)
    head = replaced(head, "base_model", lambda _: base, newline)
    head = replaced(head, "base_model_relation", lambda _: ours["base_model_relation"], newline)
    head = replaced(head, "model-index", lambda index: merge_results(index, ours["model-index"]), newline)
    block = render_block(document, ", ".join(map(str, base)) if isinstance(base, list) else str(base))
    rest = _with_block(rest, block.replace("\n", newline), newline)
    return text[: len(text) - len(plain)] + opening + head + rest, notes


def _with_block(text: str, block: str, newline: str) -> str:
    """The text with the block in place of the one that it has, or after everything."""
    starts, ends = text.count(START), text.count(END)
    if starts == ends == 0:
        gap = "" if text.endswith(newline * 2) else newline if text.endswith(newline) else newline * 2
        return f"{text}{gap}{block}{newline}"
    if starts != 1 or ends != 1 or text.index(START) > text.index(END):
        raise ConfigurationError(
            f"it has {starts} marker(s) {START} and {ends} {END}, but must have one of each, in this order, or none. "
            "Remove what is too much; the block is written anew."
        )
    return text[: text.index(START)] + block + text[text.index(END) + len(END) :]


def _require_whole(document: Mapping[str, Any], allow_incomplete: bool) -> None:
    if allow_incomplete or (document["complete"] and not document.get("interrupted")):
        return
    raise ConfigurationError(
        f"the report is {outcome(document).word}: {outcome(document).listed}. Gate the whole release, or show a part "
        "with --allow-incomplete."
    )


def _find_report(folder: Path) -> Path:
    places = [folder / place for place in PLACES]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ConfigurationError(
            f"there is no report for {folder}: neither {places[0]} nor {places[1]}. Name it with --report FILE; "
            "`pytest --circuit-report-dir DIR` writes one."
        )
    return found


def _runs_of(document: Mapping[str, Any], folder: Path, candidate: str | None) -> list[Entry]:
    """What the report says of this release: another candidate's verdict must never land on its card."""
    names = list(dict.fromkeys(run["candidate"] for run in document["runs"]))
    if not names:
        raise ConfigurationError("the report has no runs, so there is no verdict to show. Gate the release first.")
    wanted = folder.resolve().name if candidate is None else candidate
    if wanted not in names:
        raise ConfigurationError(
            f"the report has no candidate {wanted!r}; it has {', '.join(map(repr, names))}. "
            f"Name the one that {folder} holds with --candidate NAME."
        )
    return [run for run in document["runs"] if run["candidate"] == wanted]
