"""A comparison on questions as read from its directory: ``questions.json``, and the runs that it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from titer.errors import InputError
from titer.results.store import Run, read_facts, read_run

QUESTIONS = "questions.json"


def question_run(task: str, attack: str) -> str:
    """Directory, below the comparison's, of an attack on a set of questions."""
    return f"runs/{task}-{attack}"


@dataclass(frozen=True, eq=False)
class QuestionResults:
    """A comparison, finished or not.

    Args:
        path: its directory.
        info: what questions.json holds.
        runs: those that hold finished questions.
        missing: names of the others.
    """

    path: Path
    info: Mapping[str, Any]
    runs: tuple[Run, ...]
    missing: tuple[str, ...]


def is_questions(path: Path) -> bool:
    """Whether a directory holds a comparison on questions."""
    return (path / QUESTIONS).exists()


def read_questions(path: Path | str) -> QuestionResults:
    """Read the directory of a comparison on questions.

    Raises:
        InputError: if it is none.
    """
    path = Path(path)
    info = read_facts(path / QUESTIONS)
    if info is None:
        raise InputError(f"{path} is no comparison on questions: it holds no {QUESTIONS}")
    there = {name: read_run(path / name) for name in info["runs"] if (path / name / "run.json").exists()}
    done = {name: run for name, run in there.items() if run.records}
    return QuestionResults(path, info, tuple(done.values()), tuple(name for name in info["runs"] if name not in done))
