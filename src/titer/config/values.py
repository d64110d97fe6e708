"""Values of a recipe: checked, with the place in the error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from titer.attacks import Norm, Threat
from titer.attacks.threat import rising
from titer.errors import InputError, unknown
from titer.results.robustness import check_budgets
from titer.results.study import ALL_SHOTS, Shots
from titer.typed import FRACTION, number

Table = dict[str, Any]

OF_ATTACK = ("method", "norm", "eps", "checks")
"""Keys of an attack that are the comparison's; all others are settings of the method."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def table_of(recipe: Table, name: str, keys: Sequence[str] | None = None) -> Table:
    table = recipe.get(name, {})
    if not isinstance(table, dict):
        raise InputError(f"[{name}]: expected a table, got {table!r}")
    if keys is not None:
        check_keys(f"key of [{name}]", table, keys)
    return table


def check_keys(kind: str, table: Table, names: Iterable[str]) -> None:
    for key in table:
        if key not in names:
            raise unknown(kind, key, names)


def check_name(place: str, name: str) -> None:
    """Names become file names."""
    if not _NAME.fullmatch(name):
        raise InputError(f"{place}: expected a name of letters, digits, '.', '_' and '-'")


def names_of(place: str, values: Any) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
        raise InputError(f"{place}: expected a list of names, got {values!r}")
    return tuple(dict.fromkeys(values))


def truth(place: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{place}: expected true or false, got {value!r}")
    return value


def wholes(place: str, values: Any, least: int) -> tuple[int, ...]:
    found: tuple[int, ...] = numbers_of(place, values, int)
    if min(found) < least:
        raise InputError(f"{place}: expected at least {least}, got {min(found)}")
    return found


def shots_of(place: str, values: Any) -> tuple[Shots, ...]:
    """Numbers of images of each class, or the word ``all``."""
    listed = values if isinstance(values, list | tuple) and values else [values]
    counted = (ALL_SHOTS if value == ALL_SHOTS else wholes(f"{place} shots", value, 1)[0] for value in listed)
    return tuple(dict.fromkeys(counted))


def numbers_of(place: str, values: Any, kind: type[int] | type[float]) -> tuple[Any, ...]:
    listed = list(values) if isinstance(values, list | tuple) else [values]
    allowed = (int,) if kind is int else (int, float)
    if not listed or any(isinstance(value, bool) or not isinstance(value, allowed) for value in listed):
        raise InputError(f"{place}: expected {'whole ' if kind is int else ''}numbers, got {values!r}")
    return tuple(dict.fromkeys(kind(value) for value in listed))


def lengths(place: str, values: Any) -> tuple[float, ...]:
    """Numbers, or texts of fractions."""
    listed = list(values) if isinstance(values, list | tuple) else [values]
    typed = [number(value, place) if isinstance(value, str) else value for value in listed]
    return numbers_of(place, typed, float)


def threats_of(table: Table) -> tuple[Threat, ...]:
    """Norm and rising budgets of an attack; linf and 1/255 unless it says others."""
    norm, eps = table.get("norm", "linf"), lengths("eps", table.get("eps", "1/255"))
    check_budgets("eps", eps, norm)
    return rising(cast("Norm", norm), eps)


def own_settings(table: Table, others: Iterable[str] = ()) -> Table:
    """A method's own keys: lists as tuples, and texts of fractions such as ``1/255`` as numbers."""
    return {key: _setting(value) for key, value in table.items() if key not in others}


def _setting(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_setting, value))
    return number(value, "") if isinstance(value, str) and FRACTION.fullmatch(value) else value


def nested(table: Table) -> Table:
    """Settings, those of tables within as well."""
    return {key: nested(value) if isinstance(value, dict) else _setting(value) for key, value in table.items()}


def merged(table: Table, changes: Mapping[str, Any]) -> Table:
    """Changes reach into tables; anything else is replaced."""
    both = dict(table)
    for name, value in changes.items():
        old = both.get(name)
        both[name] = merged(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return both


def listed(names: Any) -> str:
    return ", ".join(map(repr, names)) or "none"
