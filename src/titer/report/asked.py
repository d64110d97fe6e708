"""The page of comparisons on questions: their runs, what is missing, and what each head cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from titer.errors import InputError
from titer.report.answered import Section, section
from titer.report.page import by_data, render, write_page
from titer.report.parts import Part
from titer.report.tables import Table
from titer.results.questions import QuestionResults, read_questions


def questions_page(paths: Sequence[Path | str], out: Path | str) -> Path:
    """Write one HTML page about one or more comparisons on questions.

    Args:
        paths: directories that ``titer run`` wrote, finished or not.
        out: the file to write.

    Raises:
        InputError: if a directory is no such comparison, or has no results yet.
    """
    found = [part for path in paths for part in _sections(read_questions(path))]
    return write_page(render([], [], found), out)


def _sections(results: QuestionResults) -> list[Section]:
    """A section for each set of questions; the first says what is missing and by which command all was made."""
    if not results.runs:
        raise InputError(f"{results.path} has no finished questions to report; titer run goes on with it")
    parts = [section(runs) for runs in by_data(results.runs)]
    missing = (f"Not finished: {', '.join(results.missing)}.",) if results.missing else ()
    told = replace(parts[0], alarms=(*missing, *parts[0].alarms))
    last = replace(parts[-1] if len(parts) > 1 else told, parts=(*parts[-1].parts, costs(results)))
    return [last] if len(parts) == 1 else [told, *parts[1:-1], last]


def costs(results: QuestionResults) -> Part:
    """What was learned in which time."""
    rows = tuple(
        (
            facts["name"],
            task,
            f"{facts['questions']:,}",
            f"{facts['parameters']:,}",
            f"{facts['fit_seconds']:,.0f}",
            "; ".join(facts["warnings"]) or "none",
        )
        for task, made in results.info["prompts"].items()
        for facts in made
    )
    return Part(
        title="Costs",
        tables=(
            Table(
                title="Fits",
                caption="Co-attention and head; the encoder stays as it is. Seconds by the clock, whatever else the machine did.",
                columns=("head", "task", "questions to learn from", "numbers learned", "seconds", "warnings"),
                rows=rows,
            ),
        ),
    )
