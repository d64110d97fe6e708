"""A comparison of prompt sets, as a recipe describes it: methods, attacks, and cells that judge them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from titer.attacks import ATTACKS
from titer.certify import CERTIFIERS
from titer.certify.certificate import Guarantee
from titer.certify.settings import check_sigma
from titer.config.files import SIZES
from titer.config.values import (
    OF_ATTACK,
    Table,
    check_keys,
    check_name,
    listed,
    merged,
    names_of,
    numbers_of,
    own_settings,
    shots_of,
    table_of,
    threats_of,
    truth,
    wholes,
)
from titer.data.classes import Wording
from titer.defenses import DEFENSES
from titer.errors import InputError, unknown
from titer.evaluate.benchmarks import BENCHMARKS, Benchmark, Part
from titer.evaluate.plan import check_draws
from titer.evaluate.study import AttackEntry, Cell, Entry, Study
from titer.models.classifier import split_templates
from titer.results.study import ZERO_SHOT

_TABLES = (
    "title", "model", "data", "benchmark", "defenses", "attacks", "certifier", "grid", "cells", "upstream", "questions",
    *SIZES,
)  # fmt: skip
_OWN = ("method", "guarantee", "baseline", "shots", "seeds", "per_sigma", "cells")
"""Keys of a defense that are the comparison's; all others are settings of the method."""

_GRID = ("shots", "seeds", "sigma")


def comparison(recipe: Table, model: str | None, data: str | None) -> Study:
    """The comparison of these tables, on this model and these data where they are given."""
    check_keys("table", recipe, _TABLES)
    source = table_of(recipe, "data", ("name", "split", "limit", "classes", "template", "source"))
    names = {
        "model": model or table_of(recipe, "model", ("name",)).get("name"),
        "data": data or source.get("name"),
    }
    for kind, named in names.items():
        if not isinstance(named, str):
            hint = f". {source['source']}" if kind == "data" and "source" in source else ""
            raise InputError(f"[{kind}] names no {kind}; expected name = '...', or --{kind} on the command line{hint}")
    defenses = table_of(recipe, "defenses")
    if not defenses:
        raise InputError("it compares nothing; expected a table [defenses.NAME] for each method")
    entries = {name: _entry(name, table) for name, table in defenses.items()}
    _one_zero_shot(entries.values())
    attacks = {name: _attack(name, table) for name, table in table_of(recipe, "attacks").items()}
    grid = table_of(recipe, "grid", _GRID)
    cells = table_of(recipe, "cells") or {"main": _main(attacks, grid)}
    wanted = {name: table for name, table in cells.items() if table is not False}
    if not wanted:
        raise InputError("it judges nothing: all of its cells are false")
    kept = {name: _kept(name, table, table_of(recipe, "cells")) for name, table in defenses.items()}
    shared = {
        "limit": source.get("limit"),
        **grid,
        "certifier": table_of(recipe, "certifier"),
    }
    whole = [_cell(name, shared, table, kept, attacks) for name, table in wanted.items()]
    benchmark = _benchmark(table_of(recipe, "benchmark"), source)
    own = str(names["data"])
    return Study(
        title=str(recipe.get("title", "Comparison")),
        model=str(names["model"]),
        data=own if benchmark is None else benchmark.fitted_on(own),
        split=str(source.get("split", "test")),
        entries=entries,
        cells=tuple(whole if benchmark is None else _in_parts(whole, benchmark.parts(own))),
        wording=_wording(source),
        attacks=attacks,
    )


def _benchmark(table: Table, source: Table) -> Benchmark | None:
    """The protocol that says what is fitted and judged on what, where the recipe names one."""
    if not table:
        return None
    if not isinstance(table.get("name"), str):
        raise InputError(f"[benchmark]: expected name = '...', one of {listed(BENCHMARKS)}")
    if "classes" in source:
        raise InputError("[data] classes: a benchmark chooses classes itself; expected none")
    return BENCHMARKS.build(table["name"], **own_settings(table, ("name",)))


def _in_parts(cells: Iterable[Cell], parts: Sequence[Part]) -> Iterator[Cell]:
    for cell in cells:
        for part in parts:
            yield replace(cell, name=f"{cell.name}-{part.name}", part=part, of=cell.name)


def _main(attacks: Iterable[str], grid: Table) -> Table:
    """The only cell of a recipe without cells: it does all that there is to do."""
    certified = {"sigma": grid["sigma"]} if "sigma" in grid else {}
    return {"attacks": list(attacks), **certified} if attacks else {}


def _wording(source: Table) -> Wording | None:
    """Words for the classes, where the recipe gives them in the place of the data set's own."""
    words, template = source.get("classes"), source.get("template", "{}")
    if not isinstance(template, str) or not (words is None or isinstance(words, dict)):
        raise InputError("[data]: expected a table classes of label = 'words', and a text template")
    try:
        return Wording(words, template) if source.keys() & {"classes", "template"} else None
    except InputError as error:
        raise InputError(f"[data] {error}") from error


def _one_zero_shot(entries: Iterable[Entry]) -> None:
    """Records call it by one name, or by its template."""
    named: dict[str | None, list[str]] = {}
    for entry in entries:
        if entry.defense is None:
            named.setdefault(entry.template, []).append(entry.name)
    for names in named.values():
        if len(names) > 1:
            raise InputError(f"{listed(names)} are the same: method {ZERO_SHOT!r} has no settings; keep one of them")


def _kept(name: str, table: Table, cells: Table) -> tuple[str, ...] | None:
    """The only cells that a method is in, or None."""
    if "cells" not in table:
        return None
    place = f"[defenses.{name}] cells"
    for cell in (only := names_of(place, table["cells"])):
        if cell not in cells:
            raise unknown(f"cell of {place}", cell, cells)
    return only


def _entry(name: str, table: Any) -> Entry:
    place = f"[defenses.{name}]"
    check_name(place, name)
    if not isinstance(table, dict) or not isinstance(table.get("method"), str):
        raise InputError(f"{place}: expected a table with method = '...'")
    settings = own_settings(table, _OWN)
    own: Table = {key: truth(f"{place} {key}", table[key]) for key in ("baseline", "per_sigma") if key in table}
    own |= {"shots": shots_of(place, table["shots"])} if "shots" in table else {}
    own |= {"seeds": wholes(f"{place} seeds", table["seeds"], 0)} if "seeds" in table else {}
    if "guarantee" in table:
        own["guarantee"] = table["guarantee"]
        if table["guarantee"] not in get_args(Guarantee):
            raise unknown(f"guarantee of {place}", str(table["guarantee"]), get_args(Guarantee))
    if table["method"] == ZERO_SHOT:
        template = settings.pop("template", None)
        if settings:
            raise InputError(f"{place}: {ZERO_SHOT} has no settings, got {listed(settings)}; only template is possible")
        if template is not None:
            try:
                split_templates(str(template))
            except InputError as error:
                raise InputError(f"{place} {error}") from error
        return Entry(name=name, template=template, **own)
    try:
        entry = Entry(name=name, defense=DEFENSES.build(table["method"], **settings), **own)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    if entry.per_sigma and not hasattr(entry.defense, "sigmas"):
        raise InputError(f"{place}: {table['method']} is not fitted on noise, so per_sigma means nothing")
    return entry


def _attack(name: str, table: Any) -> AttackEntry:
    place = f"[attacks.{name}]"
    check_name(place, name)
    if not isinstance(table, dict):
        raise InputError(f"{place}: expected a table, got {table!r}")
    method, norm = str(table.get("method", name)), table.get("norm", "linf")
    settings = own_settings(table, OF_ATTACK)
    try:
        attack = ATTACKS.build(method, **settings)
        if norm not in attack.norms:
            raise unknown(f"norm of attack {method!r}", str(norm), attack.norms)
        threats = threats_of(table)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    return AttackEntry(
        name=name,
        attack=attack,
        norm=threats[0].norm,
        eps=tuple(threat.epsilon for threat in threats),
        checks=truth(f"{place} checks", table.get("checks", True)),
    )


def _cell(
    name: str,
    shared: Table,
    own: Any,
    kept: Mapping[str, Sequence[str] | None],
    attacks: Mapping[str, AttackEntry],
) -> Cell:
    """A cell judges the methods it names, or all that are not kept for other cells.

    One that names attacks certifies only if it says with what: the grid's sigma is for those that do not.
    """
    place = f"[cells.{name}]"
    check_name(place, name)
    if not isinstance(own, dict):
        raise InputError(f"{place}: expected a table, or false to leave the cell out, got {own!r}")
    check_keys(f"key of {place}", own, ("defenses", "attacks", *shared, *_GRID))
    table = merged(shared, own)
    attacked = names_of(f"{place} attacks", own.get("attacks", ()))
    for attack in attacked:
        if attack not in attacks:
            raise unknown(f"attack of {place}", attack, attacks)
    certifies = not attacked or not own.keys().isdisjoint(("sigma", "certifier"))
    entries = tuple(entry for entry, only in kept.items() if only is None or name in only)
    chosen = names_of(f"{place} defenses", table["defenses"]) if "defenses" in table else entries
    for entry in chosen:
        if entry not in kept:
            raise unknown(f"defense of {place}", entry, kept)
    if not chosen:
        raise InputError(f"{place} compares nothing: all defenses are kept for other cells")
    settings = own_settings(table_of(table, "certifier"))
    certifier = CERTIFIERS.build(str(settings.pop("name", "gaussian")), **settings)
    check_draws(certifier, certifier.alpha)
    sigmas = numbers_of(f"{place} sigma", table.get("sigma", ()), float) if certifies else ()
    for sigma in sigmas:
        check_sigma(sigma)
    return Cell(
        name=name,
        entries=chosen,
        certifier=certifier,
        sigmas=sigmas,
        shots=shots_of(place, table.get("shots", 16)),
        seeds=wholes(f"{place} seeds", table.get("seeds", 1), 0),
        limit=None if table["limit"] is None else wholes(f"{place} limit", table["limit"], 1)[0],
        attacks=attacked,
    )
