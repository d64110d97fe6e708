"""titer craft."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from titer.cli import options as o
from titer.cli.output import document, note, table
from titer.cli.values import settings, whole
from titer.errors import InputError
from titer.typed import number

if TYPE_CHECKING:
    from titer.attacks import Norm


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("craft")(craft)


def craft(
    model: o.Model,
    data: o.DataName,
    out: Annotated[Path, typer.Option("--out", help="Data directory; the same command goes on where it stopped.")],
    ratio: Annotated[str, typer.Option("--ratio", help="Share of the split's pairs that is noised, such as 0.1.")],
    attack: Annotated[
        str,
        typer.Option(
            "--attack",
            help="sga, co-attack, sep, targeted; controls: random-noise, random-word, wrong-caption.",
        ),
    ] = "sga",
    norm: Annotated[str, typer.Option("--norm", help="linf, l2 or l1.")] = "linf",
    eps: Annotated[
        str, typer.Option("--eps", help="Budget of the pictures in [0, 1] pixels at the model's input size.")
    ] = "2/255",
    set_: o.Settings = None,
    split: Annotated[str, typer.Option("--split", help="Whose pairs are noised.")] = "train",
    seed: Annotated[
        int,
        typer.Option("--seed", parser=whole("--seed"), metavar="INTEGER", help="Which pairs, and all that is drawn."),
    ] = 0,
    workers: o.Workers = None,
    device: o.Device = None,
    json: o.Json = False,
) -> None:
    """Write a data set of which a known share of the image-caption pairs is noised.

    Example: titer craft --model titer:tiny --data captioned:titer:phantoms --ratio 0.1 --attack sga --eps 2/255 --out
    data/noised
    """
    from titer.results.robustness import check_budgets
    from titer.upstream.craft import craft as run

    budget = number(eps, "--eps")
    check_budgets("--eps", (budget,), norm)
    share = number(ratio, "--ratio")
    if not 0 <= share <= 1:
        raise InputError(f"--ratio: expected a share from 0 to 1, got {ratio}")
    with o.told(out):
        made = run(
            model, data, out=out, ratio=share, attack=attack, norm=cast("Norm", norm), eps=budget,
            settings=settings(set_ or ()), split=split, seed=seed, workers=workers, device=device, command=o.command(),
        )  # fmt: skip
    for warning in made.warnings:
        note(f"titer: {warning}")
    row = {
        "pairs": made.pairs, "noised": made.noised, "captions changed": made.captions, "weak after storing": made.weak,
        "pictures failed": made.failed, "seconds": round(made.seconds, 1), "out": str(made.path),
    }  # fmt: skip
    if json:
        document({**row, "warnings": list(made.warnings)})
        return
    table(list(row), [list(row.values())])
