"""titer pretrain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from titer.cli import options as o
from titer.cli.output import document, note, table
from titer.cli.values import settings, whole


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("pretrain")(pretrain)


def pretrain(
    model: o.Model,
    data: o.DataName,
    out: Annotated[Path, typer.Option("--out", help="Model directory; the same command goes on where it stopped.")],
    set_: o.Settings = None,
    split: Annotated[str, typer.Option("--split", help="Whose pairs are learned.")] = "train",
    seed: Annotated[
        int,
        typer.Option(
            "--seed", parser=whole("--seed"), metavar="INTEGER", help="Of order, crops, and weights from scratch."
        ),
    ] = 0,
    workers: o.Workers = None,
    device: o.Device = None,
    json: o.Json = False,
) -> None:
    """Train a dual encoder on image-caption pairs, from its weights or from scratch, and write it as a model directory.

    Example: titer pretrain --model titer:tiny --data captioned:titer:phantoms --set epochs=2 --set rate=1e-4 --out
    models/mine
    """
    from titer.upstream.pretrain import pretrain as run

    with o.told(out):
        made = run(
            model, data, out=out, settings=settings(set_ or ()), split=split, seed=seed, workers=workers, device=device,
            command=o.command(),
        )  # fmt: skip
    for warning in made.warnings:
        note(f"titer: {warning}")
    curve = [{name: value for name, value in record.items() if name != "sample_id"} for record in made.curve]
    if json:
        document({**vars(made), "path": str(made.path), "curve": curve, "warnings": list(made.warnings)})
        return
    table([name.replace("_", " ") for name in curve[0]], [list(record.values()) for record in curve])
    failed = f", {made.failed} pictures failed" if made.failed else ""
    note(f"{made.pairs} pairs{failed}; the weights of epoch {made.epoch} are in {made.path}")
