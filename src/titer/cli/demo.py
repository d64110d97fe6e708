"""titer demo."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from titer.cli import options as o
from titer.cli.output import document, note


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option("--out", help="Where the runs and the page go.")] = Path("titer-demo"),
    seed: Annotated[int, typer.Option("--seed", help="Of the noise.")] = 0,
    device: o.Device = None,
    json: o.Json = False,
) -> None:
    """Check, certify and report on the embedded model and data.

    Example: titer demo --out runs/demo
    """
    import titer
    from titer.cli.check import facts_of, show_facts

    began = time.perf_counter()
    facts = facts_of("titer:tiny", "titer:phantoms", device, "float32")
    if not json:
        show_facts(facts)
    note("certifying 32 phantoms at sigma 0.1 and 0.25 ...")
    run = titer.certify(
        "titer:tiny",
        "titer:phantoms",
        sigma=(0.1, 0.25),
        n=1000,
        limit=32,
        seed=seed,
        device=device,
        out=out / "certify",
        command="titer demo",
    )
    page = titer.report([run], out / "report.html")
    shares = {sigma: run.certified_accuracy(0.1, sigma=sigma) for sigma in (0.1, 0.25)}
    if json:
        certified = [{"sigma": sigma, "radius": 0.1, **vars(share)} for sigma, share in shares.items()]
        document({**facts, "certified_accuracy": certified, "page": str(page)})
    else:
        for sigma, share in shares.items():
            interval = f"95 % interval {share.low:.2f} to {share.high:.2f}"
            print(f"sigma {sigma:g}: certified accuracy at radius 0.1 is {share.estimate:.2f} ({interval})")
    note(f"done in {time.perf_counter() - began:.0f} seconds; open {page} in a browser")
