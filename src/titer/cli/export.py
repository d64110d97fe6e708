"""titer export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from titer.cli import options as o
from titer.cli.output import note


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("export")(o.with_unused(export, seed=o.UnusedSeed, device=o.UnusedDevice))


def export(
    run: Annotated[Path, typer.Argument(help="A run directory, or an adapter that titer fit wrote.", metavar="RUN")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="Of a run: cohen, promptsmooth, csv, latex or apt. Of an adapter: coop, apt, maple, fap, ivlp, advvp, "
            "tecoa, robustvlm, or hub for a copy that can be shared.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="The file to write; with several prompt sets, their names are put in.")
    ],
) -> None:
    """Write a run in a format that other programs read, or an adapter as other people's code saves it.

    Example: titer export runs/first --to cohen --out first.tsv
    """
    from titer.defenses.exports import export_adapter, is_adapter
    from titer.results.foreign import export_run
    from titer.results.store import read_run

    if is_adapter(run):
        note(f"wrote {export_adapter(run, to, out)}")
        return
    for path in export_run(read_run(run), to, out):
        note(f"wrote {path}")
