"""Recipes: from TOML to a comparison that can be run. A recipe is data; what it names is looked up and checked here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from titer.config.comparison import comparison
from titer.config.files import FOLDER, SIZES, changed, read_tables, recipes_here
from titer.config.questions import question_study
from titer.config.upstream import upstream_study
from titer.config.values import Table
from titer.errors import InputError
from titer.evaluate.asking import QuestionStudy
from titer.evaluate.study import Study
from titer.upstream.study import UpstreamStudy

__all__ = [
    "FOLDER", "SIZES", "is_of_questions", "is_of_upstream", "read_question_recipe", "read_recipe", "read_tables",
    "read_upstream_recipe", "recipes_here",
]  # fmt: skip

Described = TypeVar("Described", Study, UpstreamStudy, QuestionStudy)


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
    return _read_as(comparison, path, model, data, changes)


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
    return _read_as(upstream_study, path, model, data, changes)


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
    return _read_as(question_study, path, model, data, changes)


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
        return make(changed(recipe, dict(changes or {})), model, data)
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error
