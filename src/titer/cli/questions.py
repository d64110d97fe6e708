"""titer attack, of answers to questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from titer.cli import options as o
from titer.cli.output import document, note, table
from titer.cli.retrieval import plain
from titer.errors import InputError


def asks_questions(prompts: Sequence[str]) -> bool:
    """Whether the prompt sets answer questions.

    Raises:
        InputError: if only some of them do.
    """
    from titer.defenses.adapter import answers_questions

    found = [name for name in prompts if answers_questions(Path(name))]
    if found and len(found) < len(prompts):
        other = next(name for name in prompts if name not in found)
        raise InputError(f"--prompts: {found[0]} answers questions, {other} does not; expected a run for each")
    return bool(found)


def attack_answers(name: str, model: str, data: str, out: Path, *, json: bool, **options: Any) -> None:
    """Attack images and questions, and say which are still answered rightly."""
    from titer.evaluate.answering import attack_answers as run

    with o.told(out):
        finished = run(model, data, name, out=out, command=o.command(), **options)
    _summary(finished, json)


def _summary(finished: Any, json: bool) -> None:
    from titer.results.answered import SUCCESS, accuracies, swaps
    from titer.results.summary import spoken_rows

    checks = finished.info.get("checks", [])
    swapped, rows = [vars(counts) for counts in swaps(finished)], accuracies(finished)
    if json:
        told = [{name: plain(value) for name, value in vars(row).items()} for row in rows]
        document({"accuracies": told, "swaps": swapped, "success": dict(SUCCESS), "checks": checks})
    else:
        for lines in (spoken_rows(accuracies(finished)), swapped):
            if lines:
                table([name.replace("_", " ") for name in lines[0]], [list(line.values()) for line in lines])
        o.checks_table(checks)
        for name, text in SUCCESS.items():
            note(f"{name.replace('_', ' ')}: {text}")
        o.ran(finished.info["settings"])
        o.counted(finished, "questions")
    unseen = max(row.unseen for row in rows)
    if unseen:
        note(f"titer: {unseen} questions have an answer that the fit never had; they are counted as answered wrongly")
