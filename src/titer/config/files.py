"""Recipes as files: TOML, what one extends, its sizes, and changes from the command line."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path

from titer.config.values import Table, listed, merged, table_of
from titer.errors import InputError, unknown

SIZES = ("quick", "full")
FOLDER = Path("recipes")
"""Where `titer list recipes` looks, below the current directory."""


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


def changed(recipe: Table, changes: Table) -> Table:
    """A recipe in the size asked for, with changes."""
    size = changes.pop("size", None)
    sizes = [name for name in SIZES if name in recipe]
    if size is not None and size not in sizes:
        raise InputError(f"it has no size {size!r}; expected {listed(sizes)}")
    own = {name: value for name, value in recipe.items() if name not in SIZES}
    own = own if size is None else merged(own, table_of(recipe, size))
    known = table_of(own, "defenses")
    for name, table in table_of(changes, "defenses").items():
        if name not in known and not (isinstance(table, dict) and "method" in table):
            raise unknown("defense", name, known)
    return merged(own, changes)


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
    return merged(_extended(path.parent / base, (*above, path.resolve())), recipe)


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
