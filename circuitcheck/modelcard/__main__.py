"""`python -m circuitcheck.modelcard DIR`: writes the verdict into the README.md of a release."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from circuitcheck.core.errors import CircuitcheckError
from circuitcheck.core.people import plain_lines
from circuitcheck.modelcard.card import update_card


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: those after the program's name; the process's own if not given.

    Returns:
        The exit code: 0 if the card says what the report says, 1 if it could not be written.
    """
    parser = argparse.ArgumentParser(
        "python -m circuitcheck.modelcard",
        description="Writes the verdict of a report into the README.md of a release: a block between two markers and "
        "the keys base_model, base_model_relation and model-index. Everything else stays as it is.",
    )
    parser.add_argument("directory", metavar="DIR", help="the release; its README.md is made if it is missing")
    parser.add_argument(
        "--report", metavar="FILE", help="the report (default: DIR/report.json or DIR/circuitcheck/report.json)"
    )
    parser.add_argument(
        "--base-model",
        metavar="ID",
        help="the reference's id on the hub (default: what README.md names, or else the report)",
    )
    parser.add_argument(
        "--candidate",
        metavar="NAME",
        help="which of the report's candidates DIR holds (default: the one called like DIR)",
    )
    parser.add_argument(
        "--allow-incomplete", action="store_true", help="show a report that does not hold all that was to be compared"
    )
    given = parser.parse_args(arguments)
    try:
        changed = update_card(
            given.directory,
            given.report,
            base_model=given.base_model,
            candidate=given.candidate,
            allow_incomplete=given.allow_incomplete,
        )
    except (CircuitcheckError, OSError) as error:
        sys.stderr.write(plain_lines(f"circuitcheck: {error}") + "\n")
        return 1
    sys.stdout.write("".join(f"{plain_lines(line)}\n" for line in changed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
