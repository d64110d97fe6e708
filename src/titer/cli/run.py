"""titer run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from titer.cli import options as o
from titer.cli.output import note
from titer.cli.values import settings


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
    workers: o.Workers = None,
    device: o.Device = None,
) -> None:
    """Run a comparison: fit every method of a recipe, certify all on the same noise, attack them, and write the page.

    Example: titer run recipes/promptsmooth/phantoms.toml --set size=quick --out runs/phantoms
    """
    from titer.config import is_of_questions, is_of_upstream

    given: dict[str, Any] = {"model": model, "data": data, "changes": settings(set_ or ())}
    how: dict[str, Any] = {"seed": seed, "device": device, "workers": workers, "command": o.command()}
    with o.told(out):
        kind = _upstream if is_of_upstream(recipe) else _questions if is_of_questions(recipe) else _comparison
        page = kind(recipe, out, given, how)
    note(f"wrote {page}")


def _comparison(recipe: Path, out: Path, given: dict[str, Any], how: dict[str, Any]) -> Path:
    from titer.config import read_recipe
    from titer.evaluate.study import run_study
    from titer.report.comparison import compare_page

    run_study(read_recipe(recipe, **given), out, **how)
    return compare_page([out], out / "report.html")


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
