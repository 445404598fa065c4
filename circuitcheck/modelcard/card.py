"""A release's README.md with the verdict in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from circuitcheck.baseline.atomic import write_atomically
from circuitcheck.core.errors import ConfigurationError
from circuitcheck.modelcard.block import END, START, render_block
from circuitcheck.modelcard.front_matter import FrontMatter
from circuitcheck.modelcard.model_index import merge_results
from circuitcheck.report.compare import load_report
from circuitcheck.report.fields import Entry

RELATION = "quantized"
PLACES = ("report.json", "circuitcheck/report.json")
"""Where a release's report is looked for."""

BOM = "\ufeff"


def update_card(
    directory: str | Path,
    report: str | Path | None = None,
    *,
    base_model: str | None = None,
    candidate: str | None = None,
) -> list[str]:
    """Puts the verdict into `README.md` of a release, and leaves everything else in it byte for byte as it was.

    Args:
        directory: the release.
        report: the report's file; looked for in the directory if not given.
        base_model: the reference's id on the hub; if not given, what the card names, or else the report.
        candidate: which of the report's candidates the release is; if not given, the one that is called like the
            directory, or else all of them.

    Returns:
        What was done, for a person.

    Raises:
        ConfigurationError: there is no such directory, report or candidate, or the card is broken.
        OSError: the card cannot be written.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise ConfigurationError(f"there is no directory {folder}. Name the release that the model card belongs to.")
    document = load_report(report or _find_report(folder))
    runs = _runs_of(document, folder, candidate)
    file = folder / "README.md"
    text = _read(file) if file.exists() else f"# {folder.resolve().name}\n"
    found, notes = updated(text, document | {"runs": runs}, folder.resolve().name, base_model, str(file))
    if file.exists() and found == text:
        return [*notes, f"{file} already says so"]
    write_atomically({file: found.encode()})
    return [*notes, f"wrote {file}"]


def updated(
    text: str, document: Mapping[str, Any], name: str, base_model: str | None = None, where: str = "README.md"
) -> tuple[str, list[str]]:
    """A card with the verdict in it.

    Args:
        text: the card as it is.
        document: the report of this release alone.
        name: of the release.
        base_model: the reference's id on the hub.
        where: what messages call the card.

    Returns:
        The card, and what a person must know.

    Raises:
        ConfigurationError: the card is broken.
    """
    bom, text = (BOM, text[1:]) if text.startswith(BOM) else ("", text)
    matter = FrontMatter.of(text, where)
    notes = []
    base = base_model or matter.values.get("base_model")
    if not base:
        base = str(document["runs"][0]["model"])
        notes.append(f"base_model is {base}, as the report calls it; give --base-model for its id on the hub")
    matter = matter.with_value("base_model", base).with_value("base_model_relation", RELATION)
    matter = matter.with_value("model-index", merge_results(matter.values.get("model-index"), name, document, where))
    shown = ", ".join(map(str, base)) if isinstance(base, list) else str(base)
    block = render_block(document, shown).replace("\n", matter.newline)
    return bom + matter.text + _with_block(matter.rest, block, matter.newline, where), notes


def _with_block(text: str, block: str, newline: str, where: str) -> str:
    """The text with the block in place of the one that it has, or after everything."""
    starts, ends = text.count(START), text.count(END)
    if starts == ends == 0:
        gap = "" if not text or text.endswith(newline * 2) else newline if text.endswith(newline) else newline * 2
        return f"{text}{gap}{block}{newline}"
    if starts != 1 or ends != 1 or text.index(START) > text.index(END):
        raise ConfigurationError(
            f"{where} has {starts} marker(s) {START} and {ends} {END}, but must have one of each, in this order, or "
            "none. Remove what is too much; the block is written anew."
        )
    return text[: text.index(START)] + block + text[text.index(END) + len(END) :]


def _find_report(folder: Path) -> Path:
    places = [folder / place for place in PLACES]
    for place in places:
        if place.is_file():
            return place
    raise ConfigurationError(
        f"there is no report for {folder}: neither {places[0]} nor {places[1]}. Name it with --report FILE; "
        "`pytest --circuit-report-dir DIR` writes one."
    )


def _runs_of(document: Mapping[str, Any], folder: Path, candidate: str | None) -> list[Entry]:
    names = list(dict.fromkeys(run["candidate"] for run in document["runs"]))
    if not names:
        raise ConfigurationError("the report has no runs, so there is no verdict to show. Gate the release first.")
    if candidate is not None and candidate not in names:
        raise ConfigurationError(f"the report has no candidate {candidate!r}; it has {', '.join(names)}.")
    wanted = candidate if candidate is not None else folder.resolve().name
    return [run for run in document["runs"] if run["candidate"] == wanted] or list(document["runs"])


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not UTF-8: {error}. Save it as UTF-8; it was left as it is.") from error
