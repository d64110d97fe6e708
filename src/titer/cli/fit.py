"""titer fit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from titer.cli import options as o
from titer.cli.output import document, note, table
from titer.cli.values import settings, whole
from titer.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("fit")(fit)


def fit(
    defense: Annotated[str, typer.Argument(help="A defense that `titer list defenses` shows.")],
    model: o.Model,
    data: o.DataName,
    out: Annotated[Path, typer.Option("--out", help="Directory for what is learned.")],
    shots: Annotated[
        str | None,
        typer.Option("--shots", help="Images of each class, or all; 16 unless given. Questions: always all."),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            "--seed", parser=whole("--seed"), metavar="INTEGER", help="Which shots, and everything random in the fit."
        ),
    ] = 0,
    set_: o.Settings = None,
    split: Annotated[str, typer.Option("--split", help="Which split the images are taken from.")] = "train",
    allow: o.Allow = None,
    cache: Annotated[Path | None, typer.Option("--cache", help="Keep noisy features here for other fits.")] = None,
    device: o.Device = None,
    json: o.Json = False,
) -> None:
    """Fit a defense on a few images and write what it learned; certify takes it as --prompts.

    Example: titer fit promptsmooth --model titer:tiny --data titer:phantoms --shots 16 --out prompts/first
    """
    from titer.defenses import QUESTION_DEFENSES
    from titer.evaluate.fitting import fit as run

    given = settings(set_ or ())
    of_questions = defense in QUESTION_DEFENSES
    if of_questions and shots not in (None, "all"):
        raise InputError(f"--shots: {defense} learns from all questions of the split; expected all, got {shots!r}")
    taken = None if of_questions else _shots(shots or "16")
    fitted = run(
        defense, model, data, out=out, shots=taken, seed=seed, split=split, allow=tuple(allow or ()), cache=cache,
        device=device, command=o.command(), settings=given,
    )  # fmt: skip
    row = {
        "defense": defense, "questions" if of_questions else "images": fitted.images,
        "loss": None if fitted.loss is None else round(fitted.loss, 4),
        "seconds": round(fitted.seconds, 1), "out": str(fitted.path),
    }  # fmt: skip
    for warning in fitted.warnings:
        note(f"titer: {warning}")
    if json:
        document({**row, "left_out": fitted.left_out, "warnings": list(fitted.warnings)})
        return
    table(list(row), [["" if value is None else value for value in row.values()]])
    if fitted.left_out:
        what = "questions" if of_questions else "images"
        note(f"{fitted.left_out} {what} of the split were left out: the model was trained on them")


def _shots(text: str) -> int | None:
    if text == "all":
        return None
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"--shots: expected a whole number or all, got {text!r}") from error
