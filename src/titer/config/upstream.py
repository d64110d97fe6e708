"""A study of upstream noise, as a recipe with a table ``upstream`` describes it."""

from __future__ import annotations

from typing import Any

from titer.config.comparison import comparison
from titer.config.values import Table, check_name, lengths, names_of, nested, numbers_of, own_settings, table_of, wholes
from titer.errors import InputError
from titer.results.robustness import check_budgets
from titer.upstream.noises import build_noise
from titer.upstream.study import UpstreamArm, UpstreamQuestions, UpstreamStudy

_KEYS = ("corpus", "surrogate", "tasks", "seeds", "base", "pretraining", "arms", "only", "questions")
_OF_ARM = ("attack", "eps", "ratios", "surrogate")
"""Keys of an arm that are the study's; all others are settings of the noise."""

_OF_QUESTIONS = ("sets", "heads", "fusion", "attack", "eps", "limit", "allow")


def upstream_study(recipe: Table, model: str | None, corpus: str | None) -> UpstreamStudy:
    """The study of these tables, of this model and corpus where they are given."""
    table = table_of(recipe, "upstream", _KEYS)
    tasks = names_of("[upstream] tasks", table.get("tasks", ()))
    source = corpus or table.get("corpus")
    if not tasks or not isinstance(source, str):
        raise InputError("[upstream]: expected corpus = 'DATA' with captions (or --data), and tasks = ['DATA', ...]")
    arms = {name: own for name, own in table_of(table, "arms").items() if own is not False}
    if not arms:
        raise InputError("[upstream]: expected a table [upstream.arms.NAME] for each kind of noise")
    judged = comparison({key: value for key, value in recipe.items() if key != "upstream"}, model, tasks[0])
    left_out = [cell for cell, own in table_of(recipe, "cells").items() if own is False]
    only = {
        cell: names_of(f"[upstream] only.{cell}", models)
        for cell, models in table_of(table, "only").items()
        if cell not in left_out
    }
    surrogate = str(table.get("surrogate", judged.model))
    return UpstreamStudy(
        comparison=judged,
        corpus=source,
        surrogate=surrogate,
        arms=tuple(_arm(name, own, surrogate) for name, own in arms.items()),
        seeds=wholes("[upstream] seeds", table.get("seeds", 1), 0),
        base=nested(table_of(table, "base")),
        settings=nested(table_of(table, "pretraining")),
        tasks=tasks,
        only=only,
        questions=_asked(table_of(table, "questions", _OF_QUESTIONS)),
    )


def _arm(name: str, table: Any, surrogate: str) -> UpstreamArm:
    place = f"[upstream.arms.{name}]"
    check_name(place, name)
    if not isinstance(table, dict):
        raise InputError(f"{place}: expected a table, or false to leave it out, got {table!r}")
    ratios = numbers_of(f"{place} ratios", table.get("ratios", 0.1), float)
    if not all(0 < ratio <= 1 for ratio in ratios):
        raise InputError(f"{place} ratios: expected shares above 0, up to 1, got {list(ratios)}")
    attack, settings = str(table.get("attack", name)), nested(own_settings(table, _OF_ARM))
    try:
        build_noise(attack, **settings)
        eps = lengths("eps", table.get("eps", "2/255"))
        check_budgets("eps", eps, "linf")
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    return UpstreamArm(name, attack, eps[0], settings, tuple(sorted(ratios)), str(table.get("surrogate", surrogate)))


def _asked(table: Table) -> UpstreamQuestions | None:
    """What is asked of each model; nothing where no set is named."""
    place = "[upstream.questions]"
    sets = names_of(f"{place} sets", table.get("sets", ()))
    if not sets:
        return None
    attack = table_of(table, "attack")
    try:
        eps = lengths("eps", table.get("eps", "1/255"))
        check_budgets("eps", eps, "linf")
        return UpstreamQuestions(
            sets=sets,
            heads=names_of(f"{place} heads", table.get("heads", ("linear",))),
            fusion=nested(table_of(table, "fusion")),
            attack=str(attack.get("method", "pgd")),
            eps=eps,
            settings=nested(own_settings(attack, ("method",))),
            limit=table.get("limit"),
            allow=names_of(f"{place} allow", table.get("allow", ())),
        )
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
