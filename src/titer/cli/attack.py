"""titer attack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from titer.cli import options as o
from titer.cli.findings import attack_findings, gives_findings
from titer.cli.output import document
from titer.cli.questions import asks_questions, attack_answers
from titer.cli.retrieval import attack_pairs
from titer.cli.values import numbers, settings, whole
from titer.errors import unknown

if TYPE_CHECKING:
    from titer.attacks import Norm


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("attack")(attack)


def attack(
    name: Annotated[str, typer.Argument(metavar="ATTACK", help="An attack that `titer list attacks` shows.")],
    model: o.Model,
    data: o.DataName,
    out: o.Out,
    prompts: o.Prompts = None,
    template: o.Template = None,
    norm: Annotated[str, typer.Option("--norm", help="linf, l2 or l1.")] = "linf",
    eps: Annotated[
        str, typer.Option("--eps", help="Budgets in [0, 1] pixels, such as 1/255; comma list, taken upward.")
    ] = "1/255",
    set_: o.Settings = None,
    split: o.Split = "test",
    limit: o.Limit = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", parser=whole("--seed"), metavar="INTEGER", help="Of the attack's randomness (0)."),
    ] = None,
    workers: o.Workers = None,
    device: o.Device = None,
    dtype: o.Dtype = "float32",
    by: o.By = None,
    new_classes: o.NewClasses = False,
    allow: o.Allow = None,
    images: o.Images = None,
    checks: Annotated[bool, typer.Option("--checks/--no-checks", help="Look for signs of a weak attack.")] = True,
    json: o.Json = False,
) -> None:
    """Attack each image that the model answers rightly, and judge what is left.

    Example: titer attack pgd --model titer:tiny --data titer:phantoms --eps 1/255 --limit 20 --out runs/attack
    """
    from titer.attacks import ATTACKS
    from titer.attacks.pairs import PAIR_ATTACKS
    from titer.evaluate.attacking import attack as run

    if name not in ATTACKS and name not in PAIR_ATTACKS:
        raise unknown("attack", name, [*ATTACKS, *PAIR_ATTACKS])
    if asks_questions([*(prompts or ()), *(template or ())]):
        attack_answers(
            name, model, data, out, prompts=tuple(prompts or ()), json=json, norm=norm, eps=_budgets(eps, norm),
            settings=settings(set_ or ()), split=split, limit=limit, seed=seed, workers=workers, device=device,
            dtype=dtype, by=tuple(by or ()), allow=tuple(allow or ()), images=images, checks=checks,
        )  # fmt: skip
        return
    if gives_findings([*(prompts or ()), *(template or ())]):
        attack_findings(
            name, model, data, out, prompts=tuple(prompts or ()), json=json, norm=norm, eps=_budgets(eps, norm),
            settings=settings(set_ or ()), split=split, limit=limit, seed=seed, workers=workers, device=device,
            dtype=dtype, by=tuple(by or ()), allow=tuple(allow or ()),
        )  # fmt: skip
        return
    if name in PAIR_ATTACKS:
        attack_pairs(
            name, model, data, out, prompts=[*(prompts or ()), *(template or ())], json=json, norm=norm,
            eps=_budgets(eps, norm), settings=settings(set_ or ()), split=split, limit=limit, seed=seed,
            workers=workers, device=device, dtype=dtype, by=tuple(by or ()), allow=tuple(allow or ()), images=images,
        )  # fmt: skip
        return
    with o.told(out):
        finished = run(
            model, data, name, out=out, norm=cast("Norm", norm), eps=_budgets(eps, norm), settings=settings(set_ or ()),
            workers=workers, images=images, checks=checks, command=o.command(),
            **o.shared(prompts, template, split, limit, seed, device, dtype, by, new_classes, allow),
        )  # fmt: skip
    _summary(finished, json)


def _budgets(text: str, norm: str) -> tuple[float, ...]:
    """Budgets as typed.

    Raises:
        InputError: for an linf budget that must have been meant in 255 grey levels.
    """
    from titer.results.robustness import check_budgets

    budgets = numbers(text, "--eps")
    check_budgets("--eps", budgets, norm)
    return budgets


def _summary(finished: Any, json: bool) -> None:
    from titer.results.robustness import overview

    rows = overview(finished)
    checks = finished.info.get("checks", [])
    if json:
        document({"overview": [vars(row) for row in rows], "checks": checks})
        return
    o.overview_table(rows)
    o.checks_table(checks)
    o.ran(finished.info["settings"])
    o.counted(finished)
