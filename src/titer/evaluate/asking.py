"""A comparison of what answers questions: heads behind a fusion, on several sets of questions, under several attacks.

Everything is kept below one directory and goes on where it stopped: ``prompts/TASK/HEAD-sSEED`` holds what was fitted,
``runs/TASK-ATTACK`` a run of each attack on all of it, and ``questions.json`` says what was asked for.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from titer.attacks import Norm
from titer.defenses import QUESTION_DEFENSES, QuestionDefense
from titer.defenses.adapter import WEIGHTS, facts_of
from titer.errors import InputError
from titer.evaluate.answering import attack_answers, built
from titer.evaluate.fitting import fit
from titer.evaluate.study import LOCK, alone, fit_facts, fit_is_done
from titer.models import load_model
from titer.models.encoder import Encoder
from titer.results.questions import QUESTIONS, question_run
from titer.results.store import differences, write_facts

SPLIT = "test"


@dataclass(frozen=True)
class QuestionAttackEntry:
    """An attack of a comparison.

    Args:
        name: what tables call it.
        method: its registered name, of an attack of images or of images and questions.
        settings: of it.
        norm: of the change of the picture.
        eps: its budgets in [0, 1] pixels, upward.
        checks: whether self-checks look for signs that it was weak.
    """

    name: str
    method: str
    settings: Mapping[str, Any]
    norm: Norm
    eps: tuple[float, ...]
    checks: bool = True


@dataclass(frozen=True)
class QuestionStudy:
    """A comparison, as a recipe says it.

    Args:
        title: of its page.
        model: a model's name.
        tasks: data sets with questions, by name.
        heads: what answers, by name.
        attacks: on all of it.
        seeds: of the fits.
        limit: how many questions of the test split are asked; all unless given.
        allow: what a fit and a run accept (``upstream``, ``overlap``).
    """

    title: str
    model: str
    tasks: Mapping[str, str]
    heads: Mapping[str, QuestionDefense]
    attacks: tuple[QuestionAttackEntry, ...]
    seeds: tuple[int, ...] = (1,)
    limit: int | None = None
    allow: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for entry in self.attacks:
            try:
                built(entry.method, dict(entry.settings))
            except InputError as error:
                raise InputError(f"[questions.attacks.{entry.name}]: {error}") from error


def run_questions(
    study: QuestionStudy,
    out: str | Path,
    *,
    seed: int | None = None,
    device: str | None = None,
    workers: int | None = None,
    command: str = "titer.run",
) -> Path:
    """Fit every head on every set of questions, and attack all of them, or go on with it.

    Args:
        study: the comparison.
        out: its directory.
        seed: of the attacks; the recorded one on resume, else a fresh one of the operating system.
        device: ``cpu`` or ``cuda``; found by itself unless given.
        workers: threads; one per core unless given. Changes no number.
        command: what questions.json says it was made by.

    Returns:
        ``out``.

    Raises:
        InputError: for whatever is wrong with the input.
        RunError: if no question could be asked.
    """
    out = Path(out)
    if (
        out.exists()
        and not (out / QUESTIONS).exists()
        and (out.is_file() or any(file.name != LOCK for file in out.iterdir()))
    ):
        raise InputError(f"{out} is not empty and holds no comparison of questions; choose another --out")
    encoder = load_model(study.model, device=device)
    with alone(out):
        said = _begun(out, _said(study, encoder, command), seed)
        write_facts(out / QUESTIONS, said)  # so that what is stopped in the first fit goes on
        for task, data in study.tasks.items():
            made = [_fitted(study, encoder, data, head, start, out / "prompts" / task) for head, start in _sets(study)]
            said["prompts"][task] = [facts for _, facts in made]
            write_facts(out / QUESTIONS, said)
            for entry in study.attacks:
                attack_answers(
                    encoder, data, entry.method, prompts=[str(path) for path, _ in made], norm=entry.norm, eps=entry.eps,
                    settings=dict(entry.settings), out=out / question_run(task, entry.name), split=SPLIT, limit=study.limit,
                    seed=said["seed"], workers=workers, checks=entry.checks, allow=study.allow, command=command,
                )  # fmt: skip
    return out


def _sets(study: QuestionStudy) -> Iterator[tuple[str, int]]:
    yield from ((head, start) for head in study.heads for start in study.seeds)


def _fitted(
    study: QuestionStudy, encoder: Encoder, data: str, head: str, seed: int, directory: Path
) -> tuple[Path, dict[str, Any]]:
    """Fit a head unless this was done; where it is, and what it cost."""
    path = directory / f"{head}-s{seed}"
    fit_answerer(study.heads[head], encoder, data, path, seed, study.allow, f"part of {path.parents[2].name}")
    facts = fit_facts(path)
    return path, {
        "name": path.name,
        "head": head,
        "seed": seed,
        "questions": len(facts["ids"]),
        "parameters": _parameters(path / WEIGHTS),
        "fit_seconds": facts["seconds"],
        "warnings": facts["warnings"],
    }


def fit_answerer(
    defense: QuestionDefense, encoder: Encoder, data: str, path: Path, seed: int, allow: Sequence[str], command: str
) -> None:
    """Fit what answers questions, unless this was done.

    Raises:
        InputError: if another fit stands in its place.
    """
    name = next(known for known in QUESTION_DEFENSES if QUESTION_DEFENSES[known] is type(defense))
    expected = {**facts_of(name, defense, encoder, ()), "seed": seed}
    del expected["classes"]  # the answers, which only the fit knows
    if not fit_is_done(path, expected):
        fit(defense, encoder, data, out=path, seed=seed, allow=allow, command=command)


def _parameters(file: Path) -> int:
    """How many numbers a fit has learned."""
    with safe_open(file, framework="pt") as weights:
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118


def _said(study: QuestionStudy, encoder: Encoder, command: str) -> dict[str, Any]:
    return {
        "title": study.title,
        "command": command,
        "model": {"name": encoder.name, "fingerprint": encoder.fingerprint},
        "tasks": dict(study.tasks),
        "attacks": [entry.name for entry in study.attacks],
        "limit": study.limit,
        "seeds": list(study.seeds),
        "prompts": {},
        "runs": [question_run(task, entry.name) for task in study.tasks for entry in study.attacks],
    }


_FIXED = ("seed", "model", "limit")


def _begun(out: Path, said: dict[str, Any], seed: int | None) -> dict[str, Any]:
    """questions.json from here on; an earlier one of the same model, limit and seed goes on, and may have grown.

    What else may differ, fits and runs find out by themselves.
    """
    file = out / QUESTIONS
    if not file.exists():
        return said | {"seed": secrets.randbits(63) if seed is None else seed}
    earlier = json.loads(file.read_text(encoding="utf-8"))
    now = said | {"seed": earlier["seed"] if seed is None else seed}
    found = differences({key: earlier[key] for key in _FIXED}, {key: now[key] for key in _FIXED})
    if found:
        raise InputError(f"{out} belongs to another comparison: {'; '.join(found)}; choose another --out")
    runs = list(dict.fromkeys([*earlier["runs"], *now["runs"]]))
    return now | {"prompts": earlier["prompts"], "tasks": earlier["tasks"] | now["tasks"], "runs": runs}
