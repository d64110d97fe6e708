"""titer run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from titer.cli import options as o
from titer.cli.output import document, note, table
from titer.cli.values import settings, whole
from titer.errors import InputError

if TYPE_CHECKING:
    from titer.evaluate.outlook import Outlook


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("run")(run)


def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe, such as recipes/promptsmooth/brain_mri.toml.")],
    out: Annotated[Path, typer.Option("--out", help="Directory; the same command goes on where it stopped.")],
    model: Annotated[str | None, typer.Option("--model", help="In the place of the recipe's.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="In the place of the recipe's.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A key of the recipe, as data.limit=20, or size=quick, size=full; repeatable."),
    ] = None,
    seed: o.Seed = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            parser=whole("--workers"),
            metavar="INTEGER",
            help="Threads that judge, one per core unless given; if given, also processes that fit.",
        ),
    ] = None,
    minutes: Annotated[
        int | None,
        typer.Option(
            "--minutes",
            parser=whole("--minutes"),
            metavar="INTEGER",
            help="Begin nothing after that; go on another time.",
        ),
    ] = None,
    device: o.Device = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Say what is left and how long it takes, and stop.")
    ] = False,
    json: o.Json = False,
) -> None:
    """Run a comparison: fit every method of a recipe, certify all on the same noise, attack them, and write the page.

    Example: titer run recipes/promptsmooth/phantoms.toml --set size=quick --out runs/phantoms
    """
    from titer.config import is_of_questions, is_of_upstream, read_recipe
    from titer.evaluate.outlook import outlook
    from titer.evaluate.running import Deadline, TimeIsUpError
    from titer.evaluate.study import open_study, run_study
    from titer.report.comparison import compare_page

    given: dict[str, Any] = {"model": model, "data": data, "changes": settings(set_ or ())}
    how: dict[str, Any] = {"seed": seed, "device": device, "workers": workers, "command": o.command()}
    if minutes is not None and minutes < 0:
        raise InputError(f"--minutes: expected at least 0, got {minutes}")
    deadline = Deadline.within(minutes)
    other = _upstream if is_of_upstream(recipe) else _questions if is_of_questions(recipe) else None
    if other is not None:
        if estimate or minutes is not None:
            raise InputError(
                f"{recipe} is no comparison of prompt sets: it has no --estimate and no --minutes; stop it by Ctrl-C"
            )
        with o.told(out):
            note(f"wrote {other(recipe, out, given, how)}")
        return
    study = read_recipe(recipe, **given)
    if estimate:
        _print(outlook(study, open_study(study, out, device), out, workers), json)
        return
    with o.told(out):
        try:
            run_study(
                study, out, deadline=deadline, before=lambda opened: _note(outlook(study, opened, out, workers)), **how
            )
        except TimeIsUpError:
            note(f"stopped after {minutes} minutes; {out} keeps what is done. Go on with: {o.command()}")
            return
        note(f"wrote {compare_page([out], out / 'report.html')}")


def _print(expected: Outlook, json: bool) -> None:
    """Tell what is left as a table."""
    if json:
        document({"shares": [vars(share) for share in expected.shares], "tried": list(expected.tried)})
        return
    table(
        ("work", "in all", "left", "minutes"),
        [(share.work, share.whole, share.left, f"{share.seconds / 60:.1f}") for share in expected.shares],
    )
    _how(expected)


def _note(expected: Outlook) -> None:
    """Tell what is left in a line, where something is."""
    left = [f"{share.left} of {share.whole} {share.work}" for share in expected.shares if share.left]
    if left:
        note(f"left: {', '.join(left)}; about {_minutes(expected.seconds)}")
        _how(expected)


def _how(expected: Outlook) -> None:
    if expected.tried:
        note(f"guessed from short trials: {', '.join(expected.tried)}; attacks as if no image broke")


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def _upstream(recipe: Path, out: Path, given: dict[str, Any], how: dict[str, Any]) -> Path:
    from titer.config import read_upstream_recipe
    from titer.report.upstream import upstream_page
    from titer.upstream.study import run_upstream

    run_upstream(read_upstream_recipe(recipe, **given), out, **how)
    return upstream_page([out], out / "report.html")


def _questions(recipe: Path, out: Path, given: dict[str, Any], how: dict[str, Any]) -> Path:
    from titer.config import read_question_recipe
    from titer.evaluate.asking import run_questions
    from titer.report.asked import questions_page

    run_questions(read_question_recipe(recipe, **given), out, **how)
    return questions_page([out], out / "report.html")
