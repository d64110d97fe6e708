"""titer demo."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from titer.cli.output import note


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option("--out", help="Where the runs and the page go.")] = Path("titer-demo"),
) -> None:
    """Check, certify and report on the embedded model and data.

    Example: titer demo --out runs/demo
    """
    import titer
    from titer.cli.check import check

    began = time.perf_counter()
    check(model="titer:tiny", data="titer:phantoms")
    note("certifying 32 phantoms at sigma 0.1 and 0.25 ...")
    run = titer.certify(
        "titer:tiny",
        "titer:phantoms",
        sigma=(0.1, 0.25),
        n=1000,
        limit=32,
        seed=0,
        out=out / "certify",
        command="titer demo",
    )
    page = titer.report([run], out / "report.html")
    for sigma in (0.1, 0.25):
        share = run.certified_accuracy(0.1, sigma=sigma)
        interval = f"95 % interval {share.low:.2f} to {share.high:.2f}"
        print(f"sigma {sigma:g}: certified accuracy at radius 0.1 is {share.estimate:.2f} ({interval})")
    note(f"done in {time.perf_counter() - began:.0f} seconds; open {page} in a browser")
