"""A comparison on questions, as a recipe with a table ``questions`` describes it."""

from __future__ import annotations

from typing import Any

from titer.config.values import (
    OF_ATTACK,
    Table,
    check_keys,
    check_name,
    merged,
    names_of,
    nested,
    own_settings,
    table_of,
    threats_of,
    truth,
    wholes,
)
from titer.defenses import QUESTION_DEFENSES, QuestionDefense
from titer.errors import InputError
from titer.evaluate.asking import QuestionAttackEntry, QuestionStudy

_KEYS = ("tasks", "fusion", "heads", "attacks", "seeds", "limit", "allow")


def question_study(recipe: Table, model: str | None, data: str | None) -> QuestionStudy:
    """The comparison of these tables, on this model and these data where they are given."""
    check_keys("table", recipe, ("title", "model", "questions"))
    table = table_of(recipe, "questions", _KEYS)
    named = model or table_of(recipe, "model", ("name",)).get("name")
    tasks, heads, attacks = (
        {name: own for name, own in table_of(table, kind).items() if own is not False}
        for kind in ("tasks", "heads", "attacks")
    )
    tasks = tasks if data is None else {"questions": data}
    if not isinstance(named, str):
        raise InputError("[model] names no model; expected name = '...', or --model on the command line")
    if not tasks or not all(isinstance(task, str) for task in tasks.values()):
        raise InputError("[questions.tasks]: expected NAME = 'DATA' for each set of questions (or --data)")
    for kind, own in (("heads", heads), ("attacks", attacks)):
        if not own:
            raise InputError(f"[questions]: expected a table [questions.{kind}.NAME] for each of its {kind}")
    for kind, names in (("tasks", tasks), ("heads", heads), ("attacks", attacks)):
        for name in names:
            check_name(f"[questions.{kind}.{name}]", name)
    limit = table.get("limit")
    return QuestionStudy(
        title=str(recipe.get("title", "Answers under attack")),
        model=named,
        tasks=tasks,
        heads={name: _head(name, table_of(table, "fusion"), own) for name, own in heads.items()},
        attacks=tuple(_attack(name, own) for name, own in attacks.items()),
        seeds=wholes("[questions] seeds", table.get("seeds", 1), 0),
        limit=None if limit is None else wholes("[questions] limit", limit, 1)[0],
        allow=names_of("[questions] allow", table.get("allow", ())),
    )


def _head(name: str, shared: Table, own: Any) -> QuestionDefense:
    place = f"[questions.heads.{name}]"
    if not isinstance(own, dict):
        raise InputError(f"{place}: expected a table, or false to leave it out, got {own!r}")
    try:
        return QUESTION_DEFENSES.build("fusion", **own_settings(merged(shared, own)))
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def _attack(name: str, own: Any) -> QuestionAttackEntry:
    place = f"[questions.attacks.{name}]"
    if not isinstance(own, dict):
        raise InputError(f"{place}: expected a table, or false to leave it out, got {own!r}")
    try:
        threats = threats_of(own)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    return QuestionAttackEntry(
        name=name,
        method=str(own.get("method", name)),
        settings=nested(own_settings(own, OF_ATTACK)),
        norm=threats[0].norm,
        eps=tuple(threat.epsilon for threat in threats),
        checks=truth(f"{place} checks", own.get("checks", True)),
    )
