"""titer challenge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from titer.cli import options as o
from titer.cli.output import document
from titer.cli.values import numbers, settings, whole
from titer.typed import number


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("challenge")(challenge)


def challenge(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory of certify.")],
    model: o.Model,
    data: o.DataName,
    out: o.Out,
    prompts: o.Prompts = None,
    template: o.Template = None,
    attack: Annotated[
        str, typer.Option("--attack", help="An attack with norm l2; smoothadv follows what adapts to the image.")
    ] = "smoothadv",
    inside: Annotated[str, typer.Option("--inside", help="Shares of the claimed radius, at most 1.")] = "0.5,0.9,1",
    outside: Annotated[
        str, typer.Option("--outside", help="Shares above 1, tried upward until the first break; none for none.")
    ] = "1.25,1.5,2,3,4",
    n: Annotated[
        int, typer.Option("--n", parser=whole("--n"), metavar="INTEGER", help="Draws of PREDICT (1000).")
    ] = 1000,
    alpha_p: Annotated[str, typer.Option("--alpha-p", help="Error probability of PREDICT.")] = "1e-4",
    set_: o.Settings = None,
    limit: o.Limit = None,
    seed: o.Seed = None,
    workers: o.Workers = None,
    device: o.Device = None,
    by: o.By = None,
    new_classes: o.NewClasses = False,
    allow: o.Allow = None,
    json: o.Json = False,
) -> None:
    """Attack the certificates of a run at shares of their radius; the deployed pipeline answers with fresh draws.

    Example: titer challenge runs/first --model titer:tiny --data titer:phantoms --out runs/challenged
    """
    from titer.evaluate.challenge import challenge as challenged

    subject = o.shared(prompts, template, "test", limit, seed, device, "float32", by, new_classes, allow)
    del subject["split"], subject["dtype"]  # those of the run
    with o.told(out):
        finished = challenged(
            run, model, data, out=out, attack=attack, settings=settings(set_ or ()),
            inside=_shares(inside, "--inside"), outside=_shares(outside, "--outside"), n=n,
            alpha_p=number(alpha_p, "--alpha-p"), workers=workers, command=o.command(), **subject,
        )  # fmt: skip
    _summary(finished, json)


def _shares(text: str, option: str) -> tuple[float, ...]:
    return () if text == "none" else numbers(text, option)


def _summary(finished: Any, json: bool) -> None:
    from titer.results.challenged import overview

    rows = overview(finished)
    if json:
        document([vars(row) for row in rows])
        return
    o.overview_table(rows)
    o.ran(finished.info["settings"])
    o.counted(finished, "certified images")
