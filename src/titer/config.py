"""Recipes: from TOML to a comparison that can be run. A recipe is data; what it names is looked up and checked here."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from titer.attacks import ATTACKS, Norm
from titer.attacks.threat import rising
from titer.certify import CERTIFIERS
from titer.certify.certificate import Guarantee
from titer.certify.settings import check_sigma
from titer.data.classes import Wording
from titer.defenses import DEFENSES, QUESTION_DEFENSES, QuestionDefense
from titer.errors import InputError, unknown
from titer.evaluate.asking import QuestionAttackEntry, QuestionStudy
from titer.evaluate.benchmarks import BENCHMARKS, Benchmark, Part
from titer.evaluate.plan import check_draws
from titer.evaluate.study import AttackEntry, Cell, Entry, Study
from titer.models.classifier import split_templates
from titer.results.robustness import check_budgets
from titer.results.study import ALL_SHOTS, ZERO_SHOT, Shots
from titer.typed import FRACTION, number
from titer.upstream.noises import build_noise
from titer.upstream.study import UpstreamArm, UpstreamQuestions, UpstreamStudy

Table = dict[str, Any]
Described = TypeVar("Described", Study, UpstreamStudy, QuestionStudy)

SIZES = ("quick", "full")
FOLDER = Path("recipes")
"""Where `titer list recipes` looks, below the current directory."""

_TABLES = (
    "title",
    "model",
    "data",
    "benchmark",
    "defenses",
    "attacks",
    "certifier",
    "grid",
    "cells",
    "upstream",
    "questions",
    *SIZES,
)
_OWN = ("method", "guarantee", "baseline", "shots", "seeds", "per_sigma", "cells")
"""Keys of a defense that are the comparison's; all others are settings of the method."""

_OF_ATTACK = ("method", "norm", "eps", "checks")
"""Keys of an attack that are the comparison's; all others are settings of the method."""

_UPSTREAM = ("corpus", "surrogate", "tasks", "seeds", "base", "pretraining", "arms", "only", "questions")
_OF_UPSTREAM = ("attack", "eps", "ratios", "surrogate")
"""Keys of an arm of upstream noise that are the study's; all others are settings of the noise."""

_QUESTIONS = ("tasks", "fusion", "heads", "attacks", "seeds", "limit", "allow")

_OF_QUESTIONS = ("sets", "heads", "fusion", "attack", "eps", "limit", "allow")
"""Keys of the questions that a study of upstream noise asks."""

_GRID = ("shots", "seeds", "sigma")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def read_recipe(
    path: Path | str, *, model: str | None = None, data: str | None = None, changes: Mapping[str, Any] | None = None
) -> Study:
    """The comparison that a recipe describes.

    Args:
        path: a TOML file. A path of data in it is relative to the current directory, as if it were typed there.
        model: in the place of the recipe's.
        data: in the place of the recipe's.
        changes: keys in the place of the recipe's, such as ``{"data": {"limit": 20}}``; ``size`` chooses its table
            ``quick`` or ``full``.

    Raises:
        InputError: naming the file and what is wrong with it.
    """
    return _read_as(_study, path, model, data, changes)


def read_upstream_recipe(
    path: Path | str, *, model: str | None = None, data: str | None = None, changes: Mapping[str, Any] | None = None
) -> UpstreamStudy:
    """The study of upstream noise that a recipe with a table ``upstream`` describes.

    Args:
        path: as for ``read_recipe``.
        model: in the place of the recipe's.
        data: in the place of the recipe's corpus.
        changes: as for ``read_recipe``.

    Raises:
        InputError: naming the file and what is wrong with it.
    """
    return _read_as(_upstream, path, model, data, changes)


def read_question_recipe(
    path: Path | str, *, model: str | None = None, data: str | None = None, changes: Mapping[str, Any] | None = None
) -> QuestionStudy:
    """The comparison on questions that a recipe with a table ``questions`` describes.

    Args:
        path: as for ``read_recipe``.
        model: in the place of the recipe's.
        data: in the place of all of the recipe's sets of questions.
        changes: as for ``read_recipe``.

    Raises:
        InputError: naming the file and what is wrong with it.
    """
    return _read_as(_questions, path, model, data, changes)


def is_of_questions(path: Path | str) -> bool:
    """Whether a recipe describes a comparison on questions."""
    return "questions" in read_tables(path)


def is_of_upstream(path: Path | str) -> bool:
    """Whether a recipe describes a study of upstream noise."""
    return "upstream" in read_tables(path)


def _read_as(
    make: Callable[[Table, str | None, str | None], Described],
    path: Path | str,
    model: str | None,
    data: str | None,
    changes: Mapping[str, Any] | None,
) -> Described:
    path = Path(path)
    recipe = read_tables(path)
    try:
        return make(_changed(recipe, dict(changes or {})), model, data)
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error


def read_tables(path: Path | str) -> Table:
    """What a recipe says, with what it extends below it, unchecked.

    Raises:
        InputError: for a file that cannot be read, is no TOML or extends itself.
    """
    return _extended(Path(path))


def recipes_here() -> dict[str, str]:
    """Recipes below the current directory: path -> title. One that cannot be read says so."""
    return {path.as_posix(): _title(path) for path in sorted(FOLDER.rglob("*.toml"))}


def _title(path: Path) -> str:
    try:
        recipe = read_tables(path)
    except InputError as error:
        return str(error)
    tables = {kind: recipe.get(kind, {}) for kind in ("model", "data")}
    open_ = [f"--{kind}" for kind, table in tables.items() if not (isinstance(table, dict) and "name" in table)]
    return str(recipe.get("title", "Comparison")) + (f"; for any {', '.join(open_)}" if open_ else "")


def _changed(recipe: Table, changes: Table) -> Table:
    """A recipe in the size asked for, with changes."""
    size = changes.pop("size", None)
    sizes = [name for name in SIZES if name in recipe]
    if size is not None and size not in sizes:
        raise InputError(f"it has no size {size!r}; expected {_listed(sizes)}")
    own = {name: value for name, value in recipe.items() if name not in SIZES}
    own = own if size is None else _merged(own, _table(recipe, size))
    known = _table(own, "defenses")
    for name, table in _table(changes, "defenses").items():
        if name not in known and not (isinstance(table, dict) and "method" in table):
            raise unknown("defense", name, known)
    return _merged(own, changes)


def _extended(path: Path, above: tuple[Path, ...] = ()) -> Table:
    """A recipe with the one that it extends below it."""
    if path.resolve() in above:
        raise InputError(f"{path} extends itself")
    recipe = _read(path)
    base = recipe.pop("extends", None)
    if base is None:
        return recipe
    if not isinstance(base, str):
        raise InputError(f"{path}: extends: expected the path of a recipe beside it, got {base!r}")
    return _merged(_extended(path.parent / base, (*above, path.resolve())), recipe)


def _read(path: Path) -> Table:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        beside = [other.name for other in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, n=1)
        hint = f"; did you mean {str(path.parent / near[0])!r}?" if near else "; expected the path of a TOML file"
        raise InputError(f"there is no recipe {path}{hint}") from error
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
    source = _table(recipe, "data", ("name", "split", "limit", "classes", "template", "source"))
    names = {
        "model": model or _table(recipe, "model", ("name",)).get("name"),
        "data": data or source.get("name"),
    }
    for kind, named in names.items():
        if not isinstance(named, str):
            hint = f". {source['source']}" if kind == "data" and "source" in source else ""
            raise InputError(f"[{kind}] names no {kind}; expected name = '...', or --{kind} on the command line{hint}")
    defenses = _table(recipe, "defenses")
    if not defenses:
        raise InputError("it compares nothing; expected a table [defenses.NAME] for each method")
    entries = {name: _entry(name, table) for name, table in defenses.items()}
    _one_zero_shot(entries.values())
    attacks = {name: _attack(name, table) for name, table in _table(recipe, "attacks").items()}
    grid = _table(recipe, "grid", _GRID)
    cells = _table(recipe, "cells") or {"main": _main(attacks, grid)}
    wanted = {name: table for name, table in cells.items() if table is not False}
    if not wanted:
        raise InputError("it judges nothing: all of its cells are false")
    kept = {name: _kept(name, table, _table(recipe, "cells")) for name, table in defenses.items()}
    shared = {
        "limit": source.get("limit"),
        **grid,
        "certifier": _table(recipe, "certifier"),
    }
    whole = [_cell(name, shared, table, kept, attacks) for name, table in wanted.items()]
    benchmark = _benchmark(_table(recipe, "benchmark"), source)
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


def _upstream(recipe: Table, model: str | None, corpus: str | None) -> UpstreamStudy:
    table = _table(recipe, "upstream", _UPSTREAM)
    tasks = _names("[upstream] tasks", table.get("tasks", ()))
    source = corpus or table.get("corpus")
    if not tasks or not isinstance(source, str):
        raise InputError("[upstream]: expected corpus = 'DATA' with captions (or --data), and tasks = ['DATA', ...]")
    arms = {name: own for name, own in _table(table, "arms").items() if own is not False}
    if not arms:
        raise InputError("[upstream]: expected a table [upstream.arms.NAME] for each kind of noise")
    comparison = _study({key: value for key, value in recipe.items() if key != "upstream"}, model, tasks[0])
    left_out = [cell for cell, own in _table(recipe, "cells").items() if own is False]
    only = {
        cell: _names(f"[upstream] only.{cell}", models)
        for cell, models in _table(table, "only").items()
        if cell not in left_out
    }
    surrogate = str(table.get("surrogate", comparison.model))
    return UpstreamStudy(
        comparison=comparison,
        corpus=source,
        surrogate=surrogate,
        arms=tuple(_upstream_arm(name, own, surrogate) for name, own in arms.items()),
        seeds=_wholes("[upstream] seeds", table.get("seeds", 1), 0),
        base=_nested(_table(table, "base")),
        settings=_nested(_table(table, "pretraining")),
        tasks=tasks,
        only=only,
        questions=_asked_upstream(_table(table, "questions", _OF_QUESTIONS)),
    )


def _asked_upstream(table: Table) -> UpstreamQuestions | None:
    """What is asked of each model; nothing where no set is named."""
    place = "[upstream.questions]"
    sets = _names(f"{place} sets", table.get("sets", ()))
    if not sets:
        return None
    attack = _table(table, "attack")
    try:
        eps = _lengths("eps", table.get("eps", "1/255"))
        check_budgets("eps", eps, "linf")
        return UpstreamQuestions(
            sets=sets,
            heads=_names(f"{place} heads", table.get("heads", ("linear",))),
            fusion=_nested(_table(table, "fusion")),
            attack=str(attack.get("method", "pgd")),
            eps=eps,
            settings=_nested(_settings(attack, ("method",))),
            limit=table.get("limit"),
            allow=_names(f"{place} allow", table.get("allow", ())),
        )
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def _questions(recipe: Table, model: str | None, data: str | None) -> QuestionStudy:
    for key in recipe:
        if key not in ("title", "model", "questions"):
            raise unknown("table", key, ("title", "model", "questions"))
    table = _table(recipe, "questions", _QUESTIONS)
    named = model or _table(recipe, "model", ("name",)).get("name")
    tasks, heads, attacks = (
        {name: own for name, own in _table(table, kind).items() if own is not False}
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
            _check_name(f"[questions.{kind}.{name}]", name)
    limit = table.get("limit")
    return QuestionStudy(
        title=str(recipe.get("title", "Answers under attack")),
        model=named,
        tasks=tasks,
        heads={name: _head(name, _table(table, "fusion"), own) for name, own in heads.items()},
        attacks=tuple(_question_attack(name, own) for name, own in attacks.items()),
        seeds=_wholes("[questions] seeds", table.get("seeds", 1), 0),
        limit=None if limit is None else _wholes("[questions] limit", limit, 1)[0],
        allow=_names("[questions] allow", table.get("allow", ())),
    )


def _head(name: str, shared: Table, own: Any) -> QuestionDefense:
    place = f"[questions.heads.{name}]"
    if not isinstance(own, dict):
        raise InputError(f"{place}: expected a table, or false to leave it out, got {own!r}")
    try:
        return QUESTION_DEFENSES.build("fusion", **_settings(_merged(shared, own)))
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def _question_attack(name: str, own: Any) -> QuestionAttackEntry:
    place = f"[questions.attacks.{name}]"
    if not isinstance(own, dict):
        raise InputError(f"{place}: expected a table, or false to leave it out, got {own!r}")
    norm = own.get("norm", "linf")
    try:
        eps = _lengths("eps", own.get("eps", "1/255"))
        check_budgets("eps", eps, norm)
        threats = rising(cast("Norm", norm), eps)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    return QuestionAttackEntry(
        name=name,
        method=str(own.get("method", name)),
        settings=_nested(_settings(own, _OF_ATTACK)),
        norm=threats[0].norm,
        eps=tuple(threat.epsilon for threat in threats),
        checks=_truth(f"{place} checks", own.get("checks", True)),
    )


def _upstream_arm(name: str, table: Any, surrogate: str) -> UpstreamArm:
    place = f"[upstream.arms.{name}]"
    _check_name(place, name)
    if not isinstance(table, dict):
        raise InputError(f"{place}: expected a table, or false to leave it out, got {table!r}")
    ratios = _numbers(f"{place} ratios", table.get("ratios", 0.1), float)
    if not all(0 < ratio <= 1 for ratio in ratios):
        raise InputError(f"{place} ratios: expected shares above 0, up to 1, got {list(ratios)}")
    attack, settings = str(table.get("attack", name)), _nested(_settings(table, _OF_UPSTREAM))
    try:
        build_noise(attack, **settings)
        eps = _lengths("eps", table.get("eps", "2/255"))
        check_budgets("eps", eps, "linf")
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    return UpstreamArm(name, attack, eps[0], settings, tuple(sorted(ratios)), str(table.get("surrogate", surrogate)))


def _nested(table: Table) -> Table:
    """Settings, those of tables within as well."""
    return {key: _nested(value) if isinstance(value, dict) else _setting(value) for key, value in table.items()}


def _benchmark(table: Table, source: Table) -> Benchmark | None:
    """The protocol that says what is fitted and judged on what, where the recipe names one."""
    if not table:
        return None
    if not isinstance(table.get("name"), str):
        raise InputError(f"[benchmark]: expected name = '...', one of {_listed(BENCHMARKS)}")
    if "classes" in source:
        raise InputError("[data] classes: a benchmark chooses classes itself; expected none")
    return BENCHMARKS.build(table["name"], **_settings(table, ("name",)))


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
            raise InputError(f"{_listed(names)} are the same: method {ZERO_SHOT!r} has no settings; keep one of them")


def _kept(name: str, table: Table, cells: Table) -> tuple[str, ...] | None:
    """The only cells that a method is in, or None."""
    if "cells" not in table:
        return None
    place = f"[defenses.{name}] cells"
    for cell in (only := _names(place, table["cells"])):
        if cell not in cells:
            raise unknown(f"cell of {place}", cell, cells)
    return only


def _entry(name: str, table: Any) -> Entry:
    place = f"[defenses.{name}]"
    _check_name(place, name)
    if not isinstance(table, dict) or not isinstance(table.get("method"), str):
        raise InputError(f"{place}: expected a table with method = '...'")
    settings = _settings(table, _OWN)
    own: Table = {key: _truth(f"{place} {key}", table[key]) for key in ("baseline", "per_sigma") if key in table}
    own |= {"shots": _shots(place, table["shots"])} if "shots" in table else {}
    own |= {"seeds": _wholes(f"{place} seeds", table["seeds"], 0)} if "seeds" in table else {}
    if "guarantee" in table:
        own["guarantee"] = table["guarantee"]
        if table["guarantee"] not in get_args(Guarantee):
            raise unknown(f"guarantee of {place}", str(table["guarantee"]), get_args(Guarantee))
    if table["method"] == ZERO_SHOT:
        template = settings.pop("template", None)
        if settings:
            raise InputError(
                f"{place}: {ZERO_SHOT} has no settings, got {_listed(settings)}; only template is possible"
            )
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
    _check_name(place, name)
    if not isinstance(table, dict):
        raise InputError(f"{place}: expected a table, got {table!r}")
    method, norm = str(table.get("method", name)), table.get("norm", "linf")
    settings = _settings(table, _OF_ATTACK)
    try:
        attack = ATTACKS.build(method, **settings)
        eps = _lengths("eps", table.get("eps", "1/255"))
        if norm not in attack.norms:
            raise unknown(f"norm of attack {method!r}", str(norm), attack.norms)
        check_budgets("eps", eps, norm)
        threats = rising(cast("Norm", norm), eps)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    return AttackEntry(
        name=name,
        attack=attack,
        norm=threats[0].norm,
        eps=tuple(threat.epsilon for threat in threats),
        checks=_truth(f"{place} checks", table.get("checks", True)),
    )


def _lengths(place: str, values: Any) -> tuple[float, ...]:
    """Numbers, or texts of fractions."""
    listed = list(values) if isinstance(values, list | tuple) else [values]
    typed = [number(value, place) if isinstance(value, str) else value for value in listed]
    return _numbers(place, typed, float)


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
    _check_name(place, name)
    if not isinstance(own, dict):
        raise InputError(f"{place}: expected a table, or false to leave the cell out, got {own!r}")
    _known(f"key of {place}", own, ("defenses", "attacks", *shared, *_GRID))
    table = _merged(shared, own)
    attacked = _names(f"{place} attacks", own.get("attacks", ()))
    for attack in attacked:
        if attack not in attacks:
            raise unknown(f"attack of {place}", attack, attacks)
    certifies = not attacked or not own.keys().isdisjoint(("sigma", "certifier"))
    entries = tuple(entry for entry, only in kept.items() if only is None or name in only)
    chosen = _names(f"{place} defenses", table["defenses"]) if "defenses" in table else entries
    for entry in chosen:
        if entry not in kept:
            raise unknown(f"defense of {place}", entry, kept)
    if not chosen:
        raise InputError(f"{place} compares nothing: all defenses are kept for other cells")
    settings = _settings(_table(table, "certifier"))
    certifier = CERTIFIERS.build(str(settings.pop("name", "gaussian")), **settings)
    check_draws(certifier, certifier.alpha)
    sigmas = _numbers(f"{place} sigma", table.get("sigma", ()), float) if certifies else ()
    for sigma in sigmas:
        check_sigma(sigma)
    return Cell(
        name=name,
        entries=chosen,
        certifier=certifier,
        sigmas=sigmas,
        shots=_shots(place, table.get("shots", 16)),
        seeds=_wholes(f"{place} seeds", table.get("seeds", 1), 0),
        limit=None if table["limit"] is None else _wholes(f"{place} limit", table["limit"], 1)[0],
        attacks=attacked,
    )


def _table(recipe: Table, name: str, keys: Sequence[str] | None = None) -> Table:
    table = recipe.get(name, {})
    if not isinstance(table, dict):
        raise InputError(f"[{name}]: expected a table, got {table!r}")
    if keys is not None:
        _known(f"key of [{name}]", table, keys)
    return table


def _known(kind: str, table: Table, names: Iterable[str]) -> None:
    for key in table:
        if key not in names:
            raise unknown(kind, key, names)


def _check_name(place: str, name: str) -> None:
    """Names become file names."""
    if not _NAME.fullmatch(name):
        raise InputError(f"{place}: expected a name of letters, digits, '.', '_' and '-'")


def _names(place: str, values: Any) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
        raise InputError(f"{place}: expected a list of names, got {values!r}")
    return tuple(dict.fromkeys(values))


def _truth(place: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{place}: expected true or false, got {value!r}")
    return value


def _wholes(place: str, values: Any, least: int) -> tuple[int, ...]:
    found: tuple[int, ...] = _numbers(place, values, int)
    if min(found) < least:
        raise InputError(f"{place}: expected at least {least}, got {min(found)}")
    return found


def _shots(place: str, values: Any) -> tuple[Shots, ...]:
    """Numbers of images of each class, or the word ``all``."""
    listed = values if isinstance(values, list | tuple) and values else [values]
    counted = (ALL_SHOTS if value == ALL_SHOTS else _wholes(f"{place} shots", value, 1)[0] for value in listed)
    return tuple(dict.fromkeys(counted))


def _numbers(place: str, values: Any, kind: type[int] | type[float]) -> tuple[Any, ...]:
    listed = list(values) if isinstance(values, list | tuple) else [values]
    allowed = (int,) if kind is int else (int, float)
    if not listed or any(isinstance(value, bool) or not isinstance(value, allowed) for value in listed):
        raise InputError(f"{place}: expected {'whole ' if kind is int else ''}numbers, got {values!r}")
    return tuple(dict.fromkeys(kind(value) for value in listed))


def _settings(table: Table, others: Iterable[str] = ()) -> Table:
    """A method's own keys: lists as tuples, and texts of fractions such as ``1/255`` as numbers."""
    return {key: _setting(value) for key, value in table.items() if key not in others}


def _setting(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_setting, value))
    return number(value, "") if isinstance(value, str) and FRACTION.fullmatch(value) else value


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names)) or "none"
