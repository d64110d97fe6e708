"""titer compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from titer.cli import options as o
from titer.cli.output import document, note


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("compare")(o.with_unused(compare, seed=o.UnusedSeed, device=o.UnusedDevice))


def compare(
    first: Annotated[Path, typer.Argument(help="A run directory.", metavar="RUN")],
    second: Annotated[
        Path,
        typer.Argument(
            help="Another one on the same images, or the same: its prompt sets; or APT's evaluation.yaml.",
            metavar="RUN",
        ),
    ],
    json: o.Json = False,
) -> None:
    """Compare two runs image by image: paired differences with intervals and corrected tests.

    Example: titer compare runs/first runs/second
    """
    from titer.results.comparing import compare as compared
    from titer.results.foreign import open_results
    from titer.results.published import SUFFIXES, beside, read_published

    if second.suffix in SUFFIXES:
        lines = beside(open_results(first), read_published(second))
        if json:
            document([vars(line) for line in lines])
            return
        o.overview_table(lines)
        note(f"{second} names no epsilon, model or images: nothing is paired, and an interval is of our images alone")
        return
    rows = compared(open_results(first), open_results(second))
    if json:
        document([vars(row) for row in rows])
        return
    o.overview_table(rows)
    note(
        f"differences are class-balanced, first less second, with 95 % intervals; p is corrected for {len(rows)} comparisons"
    )
