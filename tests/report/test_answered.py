"""The page of answers: numbers from the records, the prior beside them, doubts where they must be read, pictures only if kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from report.test_page import Page
from titer.errors import InputError
from titer.report.answered import Section, section
from titer.report.page import report
from titer.report.tables import Share, Table
from titer.results.store import Run, read_run, thumbnail_name

GREY = 1 / 255
SWAP = {"start": 4, "word": "cells", "replacement": "<cytes>", "meaning": "preserving"}


def write_answers(
    path: Path,
    broken: Mapping[float, int],
    *,
    attack: str = "pgd",
    halves: str | None = None,
    prompts: Sequence[str] = ("fusion",),
    prior: int = 0,
    questions: int = 12,
    checks: str | None = "passed",
) -> Run:
    """Questions, every third of them open, the last one wrong from the start; at each epsilon the first so many are broken.

    Args:
        path: the directory.
        broken: how many at which epsilon.
        attack: its name.
        halves: of an attack on image and words, what it changes.
        prompts: names of the prompt sets.
        prior: the commonest answer; the right answers are 0 and 1 in turn.
        questions: how many.
        checks: verdict of the self-check; None for none.
    """
    records = []
    for eps, count in broken.items():
        for place in range(questions):
            label, wrong = place % 2, place == questions - 1
            for name in prompts:
                records.append({
                    "sample_id": f"{place:02}?q", "path": f"{place // 2}.png", "label": label, "prompts": name, "attack": attack,
                    "norm": "linf", "eps": eps, "question": f"are cells {place % 3}", "answer": "no",
                    "kind": "closed" if place % 3 else "open", "prior": prior, "clean_prediction": 1 - label if wrong else label,
                    "prediction": 1 - label if wrong or place < count else label,
                    **({"changes": [SWAP], "attacked": f"are <cytes> {place % 3}"} if halves in ("text", "both") else {}),
                })  # fmt: skip
    settings: dict[str, Any] = {
        "attack": attack,
        "norm": "linf",
        "eps": list(broken),
        "words": halves in ("text", "both"),
    }
    info = {
        "schema": 1, "status": "done", "verb": "answer", "command": "titer attack", "seed": 0, "seconds": 1.0,
        "settings": settings | ({"halves": halves} if halves else {}), "versions": {},
        "model": {"name": "toy", "fingerprint": "f", "size": 8}, "prompts": {name: f"of {name}" for name in prompts},
        "checks": [{"prompts": name, "check": "it grows", "verdict": checks, "detail": "0 of 3"} for name in prompts]
        if checks else [],
        "data": {"name": "cells", "split": "test", "limit": None},
        "classes": [{"label": name, "texts": [name]} for name in ("no", "yes")],
        "samples": {"expected": questions, "done": questions, "failed": 0},
    }  # fmt: skip
    path.mkdir(parents=True)
    (path / "samples.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (path / "run.json").write_text(json.dumps(info))
    return read_run(path)


def table(part: Section, title: str) -> Table:
    (found,) = (one for own in part.parts for one in (*own.tables, *own.folded) if one.title == title)
    return found


def rows(part: Section, title: str) -> list[list[str]]:
    return [
        [value.count or value.text if isinstance(value, Share) else value for value in row]
        for row in table(part, title).rows
    ]


def test_numbers_are_those_of_the_records(tmp_path: Path) -> None:
    runs = [
        write_answers(tmp_path / "image", {GREY: 3, 2 * GREY: 4}),
        write_answers(tmp_path / "words", {GREY: 6}, attack="sga", halves="text"),
        write_answers(tmp_path / "both", {2 * GREY: 9}, attack="co-attack", halves="both"),
    ]
    part = section(runs)
    assert table(part, "Answered rightly").columns == ("answered by", "under", "epsilon", "open", "closed", "all")
    assert rows(part, "Answered rightly") == [
        ["commonest answer", "no look", "–", "2 of 4", "4 of 8", "6 of 12"],
        ["fusion", "no attack", "–", "4 of 4", "7 of 8", "11 of 12"],
        ["fusion", "pgd, image", "1/255", "3 of 4", "5 of 8", "8 of 12"],
        ["fusion", "pgd, image", "2/255", "2 of 4", "5 of 8", "7 of 12"],
        ["fusion", "sga, words", "–", "2 of 4", "3 of 8", "5 of 12"],
        ["fusion", "co-attack, image and words", "2/255", "1 of 4", "1 of 8", "2 of 12"],
        ["fusion", "any of these", "–", "1 of 4", "1 of 8", "2 of 12"],
    ]
    assert rows(part, "Success of the attacks")[0][3:] == ["1 of 4", "2 of 7", "3 of 11"]
    assert [row[:4] for row in rows(part, "By question: fusion")] == [
        [f"are cells {kind}", "4", "2 of 4", "3 of 4" if kind == 2 else "4 of 4"] for kind in range(3)
    ]
    assert rows(part, "All swaps")[0] == ["fusion", "sga, words", "cells → <cytes>", "12", "7"]
    assert part.facts == ("toy", "test split", "12 questions", "6 pictures", "2 answers to choose from")
    assert part.verdicts[0].startswith("fusion answers 92 % (")
    assert "under sga, words; 17 % (" in part.verdicts[0]
    text = report(runs, tmp_path / "page.html").read_text()
    assert "What is asked" in text
    assert "<cytes>" not in text
    assert "What is attacked" not in text
    assert "cells" in Page(text).words


def test_heads_on_other_questions_have_tables_of_their_own(tmp_path: Path) -> None:
    runs = [
        write_answers(tmp_path / "one", {GREY: 3}, prompts=("linear", "ran")),
        write_answers(tmp_path / "two", {GREY: 3}, questions=8),
    ]
    titles = [own.title for own in section(runs).parts]
    assert titles[:2] == ["Accuracy on 12 questions", "Accuracy on 8 questions"]
    several = section(
        [runs[0], write_answers(tmp_path / "three", {GREY: 6}, attack="sga", halves="text", prompts=("ran",))]
    )
    assert table(several, "All questions answered rightly").columns == (
        "answered by", "no look", "no attack", "image 1/255", "words", "any"
    )  # fmt: skip
    assert rows(several, "All questions answered rightly") == [
        ["linear", "6 of 12", "11 of 12", "8 of 12", "–", "8 of 12"],
        ["ran", "6 of 12", "11 of 12", "8 of 12", "5 of 12", "5 of 12"],
    ]
    assert [row[0] for row in rows(several, "Answered rightly")] == [
        "commonest answer", "linear", "linear", "ran", "ran", "ran", "ran"
    ]  # fmt: skip


def test_a_model_that_does_not_look_is_an_alarm(tmp_path: Path) -> None:
    looks = write_answers(tmp_path / "looks", {GREY: 3}, questions=60)
    assert section([looks]).alarms == ()
    blind = write_answers(tmp_path / "blind", {GREY: 3}, questions=3)
    assert any(
        "fusion is not shown to be above" in text and "1 of its 3 answers" in text for text in section([blind]).alarms
    )


@pytest.mark.parametrize(
    ("checks", "words"),
    [("failed", "it does not hold that it grows. Do not trust"), (None, "no self-checks were made")],
)
def test_doubts_are_alarms(checks: str | None, words: str, tmp_path: Path) -> None:
    run = write_answers(tmp_path / "run", {GREY: 3}, questions=60, checks=checks)
    assert words in section([run]).alarms[0]


def test_pictures_are_shown_only_where_they_were_kept(tmp_path: Path) -> None:
    image = write_answers(tmp_path / "image", {GREY: 3})
    words = write_answers(tmp_path / "words", {GREY: 6}, attack="sga", halves="text")
    assert section([image, words]).asked == ()
    for run in (image, words):
        for sample in ("00?q", "11?q", "05?q", "09?q"):
            for directory, name in (("", sample), ("attacked", f"{sample}|fusion|{GREY:g}")):
                (run.path / "images" / directory).mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(
                    run.path / "images" / directory / thumbnail_name(name)
                )
    found = section([image, words]).asked
    assert [(one.name, one.why) for one in found] == [
        ("00?q", "broken at 1/255 by pgd, image"), ("05?q", "holds at 1/255 by pgd, image"),
        ("09?q", "holds at 1/255 by pgd, image"), ("00?q", "broken by sga, words"), ("05?q", "broken by sga, words"),
        ("09?q", "holds by sga, words"),
    ]  # fmt: skip
    assert (found[0].before, found[0].after, found[0].truth, found[0].swapped) == ("no", "yes", "no", "")
    assert (found[3].attacked, found[3].swapped) == ("", "are <cytes> 0")
    text = report([image, words], tmp_path / "page.html").read_text()
    assert text.count("data:image/png") == 3 * 2 + 3


def test_it_is_not_broken_down(tmp_path: Path) -> None:
    run = write_answers(tmp_path / "run", {GREY: 3})
    with pytest.raises(InputError, match="--by site: runs of answer are not broken down"):
        report([run], tmp_path / "page.html", by="site")
