"""Recipes: from TOML to a comparison that can be run. A recipe is data; what it names is looked up and checked here."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from titer.certify import CERTIFIERS
from titer.certify.settings import check_sigma
from titer.defenses import DEFENSES
from titer.errors import InputError, unknown
from titer.evaluate.study import ZERO_SHOT, Cell, Entry, Study

Table = dict[str, Any]

SIZES = ("quick", "full")
_TABLES = ("title", "model", "data", "defenses", "certifier", "grid", "cells", *SIZES)
_OWN = ("method", "guarantee", "baseline", "shots", "seeds", "per_sigma", "cells")
"""Keys of a defense that are the comparison's; all others are settings of the method."""


def read_recipe(
    path: Path | str, *, model: str | None = None, data: str | None = None, changes: Mapping[str, Any] | None = None
) -> Study:
    """The comparison that a recipe describes.

    Args:
        path: a TOML file.
        model: in the place of the recipe's.
        data: in the place of the recipe's.
        changes: keys in the place of the recipe's, such as ``{"data": {"limit": 20}}``; ``size`` chooses its table
            ``quick`` or ``full``.

    Raises:
        InputError: naming the file and what is wrong with it.
    """
    path, changes = Path(path), dict(changes or {})
    recipe = _extended(path)
    size = changes.pop("size", None)
    if size is not None and size not in recipe.keys() & set(SIZES):
        raise InputError(
            f"{path}: it has no size {size!r}; expected {_listed(name for name in SIZES if name in recipe)}"
        )
    recipe = _merged(recipe, recipe.get(size, {}) if size else {})
    recipe = _merged({name: value for name, value in recipe.items() if name not in SIZES}, changes)
    try:
        return _study(recipe, model, data)
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error


def _extended(path: Path, above: tuple[Path, ...] = ()) -> Table:
    """A recipe with the one that it extends below it."""
    if path.resolve() in above:
        raise InputError(f"{path} extends itself")
    recipe = _read(path)
    base = recipe.pop("extends", None)
    return recipe if base is None else _merged(_extended(path.parent / base, (*above, path.resolve())), recipe)


def _read(path: Path) -> Table:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the recipe {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error


def _merged(table: Table, changes: Mapping[str, Any]) -> Table:
    """Changes reach into tables; anything else is replaced."""
    merged = dict(table)
    for name, value in changes.items():
        old = merged.get(name)
        merged[name] = _merged(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def _study(recipe: Table, model: str | None, data: str | None) -> Study:
    _known("table", recipe, _TABLES)
    source = _table(recipe, "data", ("name", "split", "limit"))
    names = {
        "model": model or _table(recipe, "model", ("name",)).get("name"),
        "data": data or source.get("name"),
    }
    for kind, name in names.items():
        if not isinstance(name, str):
            raise InputError(f"[{kind}] names no {kind}; expected name = '...', or --{kind} on the command line")
    defenses = _table(recipe, "defenses")
    if not defenses:
        raise InputError("it compares nothing; expected a table [defenses.NAME] for each method")
    entries = {name: _entry(name, table) for name, table in defenses.items()}
    kept = {name: table.get("cells") for name, table in defenses.items()}
    shared = {
        "limit": source.get("limit"),
        **_table(recipe, "grid", ("shots", "seeds", "sigma")),
        "certifier": _table(recipe, "certifier"),
    }
    wanted = _table(recipe, "cells") or {"main": {}}
    for name, only in kept.items():
        for cell in only or ():
            if cell not in wanted:
                raise unknown(f"cell of [defenses.{name}]", cell, wanted)
    cells = tuple(_cell(name, _merged(shared, table), kept) for name, table in wanted.items() if table is not False)
    return Study(
        title=str(recipe.get("title", "Comparison")),
        model=str(names["model"]),
        data=str(names["data"]),
        split=str(source.get("split", "test")),
        entries=entries,
        cells=cells,
    )


def _entry(name: str, table: Any) -> Entry:
    place = f"[defenses.{name}]"
    if not isinstance(table, dict) or "method" not in table:
        raise InputError(f"{place}: expected a table with method = '...'")
    settings = {key: _tuple(value) for key, value in table.items() if key not in _OWN}
    own = {key: table[key] for key in ("guarantee", "baseline", "per_sigma") if key in table}
    own |= {key: _numbers(f"{place} {key}", table[key], int) for key in ("shots", "seeds") if key in table}
    if table["method"] == ZERO_SHOT:
        if settings:
            raise InputError(f"{place}: {ZERO_SHOT} has no settings, got {_listed(settings)}")
        return Entry(name=name, **own)
    try:
        entry = Entry(name=name, defense=DEFENSES.build(table["method"], **settings), **own)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    if entry.per_sigma and not hasattr(entry.defense, "sigmas"):
        raise InputError(f"{place}: {table['method']} is not fitted on noise, so per_sigma means nothing")
    return entry


def _cell(name: str, table: Table, kept: Mapping[str, Sequence[str] | None]) -> Cell:
    """A cell certifies the methods it names, or all that are not kept for other cells."""
    place = f"[cells.{name}]"
    _known(f"key of {place}", table, ("defenses", "limit", "shots", "seeds", "sigma", "certifier"))
    chosen = table.get("defenses") or [entry for entry, only in kept.items() if only is None or name in only]
    for entry in chosen:
        if entry not in kept:
            raise unknown(f"defense of {place}", entry, kept)
    settings = {key: _tuple(value) for key, value in table["certifier"].items()}
    certifier = CERTIFIERS.build(settings.pop("name", "gaussian"), **settings)
    sigmas = _numbers(f"{place} sigma", table.get("sigma", ()), float)
    for sigma in sigmas:
        check_sigma(sigma)
    return Cell(
        name=name,
        entries=tuple(chosen),
        certifier=certifier,
        sigmas=sigmas,
        shots=_numbers(f"{place} shots", table.get("shots", [16]), int),
        seeds=_numbers(f"{place} seeds", table.get("seeds", [1]), int),
        limit=table.get("limit"),
    )


def _table(recipe: Table, name: str, keys: Sequence[str] | None = None) -> Table:
    table = recipe.get(name, {})
    if not isinstance(table, dict):
        raise InputError(f"[{name}]: expected a table, got {table!r}")
    if keys is not None:
        _known(f"key of [{name}]", table, keys)
    return table


def _known(kind: str, table: Table, names: Sequence[str]) -> None:
    for key in table:
        if key not in names:
            raise unknown(kind, key, names)


def _numbers(place: str, values: Any, kind: type[int] | type[float]) -> tuple[Any, ...]:
    listed = list(values) if isinstance(values, list | tuple) else [values]
    allowed = (int,) if kind is int else (int, float)
    if not listed or any(isinstance(value, bool) or not isinstance(value, allowed) for value in listed):
        raise InputError(f"{place}: expected {'whole ' if kind is int else ''}numbers, got {values!r}")
    return tuple(dict.fromkeys(kind(value) for value in listed))


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names)) or "none"
