"""titer report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from titer.cli import options as o
from titer.cli.output import note


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("report")(o.with_unused(report, seed=o.UnusedSeed, device=o.UnusedDevice))


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run directories, per-image TSV files of the field, or directories of titer run.", metavar="RUN..."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The page to write.")],
    by: Annotated[
        str | None, typer.Option("--by", help="Break results down by a column that the records carry.")
    ] = None,
) -> None:
    """Write one self-contained HTML page about one or more runs, or about one or more comparisons.

    Example: titer report runs/first --out first.html
    """
    from titer.report.directories import report_on

    note(f"wrote {report_on(runs, out, by)}")
