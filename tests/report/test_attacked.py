"""The page of attacks: numbers from the records, doubts where they must be read, certificates beside."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from report.synthetic import CLASSES, write_run
from report.test_page import Page
from titer.errors import InputError
from titer.report.attacked import Section, section
from titer.report.page import report
from titer.report.tables import Share, lines
from titer.results.store import Run, read_run, thumbnail_name

GREY = 1 / 255
IMAGES = 12


def write_attack(
    path: Path, broken: Mapping[float, int], *, attack: str = "pgd", norm: str = "linf", checks: str | None = "passed"
) -> Run:
    """Twelve images, the last of which is wrong from the start; at each epsilon the first so many are broken."""
    path.mkdir(parents=True)
    records: list[dict[str, Any]] = []
    for epsilon, count in broken.items():
        for place in range(IMAGES):
            label, wrong = place % 3, place == IMAGES - 1
            answer = (label + 1) % 3 if wrong or place < count else label
            records.append(
                {
                    "sample_id": f"test/{place:03d}.png", "path": "x", "label": label, "prompts": "zero-shot", "attack": attack,
                    "norm": norm, "eps": epsilon, "clean_prediction": (label + 1) % 3 if wrong else label,
                    "prediction": answer, "broken_by": attack if place < count else None,
                }
            )  # fmt: skip
    (path / "samples.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    made = (
        [] if checks is None else [{"prompts": "zero-shot", "check": "it hides", "verdict": checks, "detail": "0 of 3"}]
    )
    info = {
        "schema": 1, "status": "done", "verb": "attack", "command": "titer attack", "seed": 0, "seconds": 1.0,
        "settings": {"attack": attack, "norm": norm, "eps": list(broken), "steps": 50}, "versions": {},
        "model": {"name": "titer:tiny", "fingerprint": "4ecb57d6" * 8, "size": 80}, "prompts": {"zero-shot": "ab" * 32},
        "identity": {"model": "4ecb57d6" * 8, "prompts": {"zero-shot": "ab" * 32}, "classes": []}, "checks": made,
        "data": {"name": "lesions", "split": "test", "limit": None},
        "classes": [{"label": name, "texts": [name]} for name in CLASSES],
        "samples": {"expected": IMAGES, "done": IMAGES, "failed": 0},
    }  # fmt: skip
    (path / "run.json").write_text(json.dumps(info))
    return read_run(path)


def shares(part: Section, title: str) -> list[list[str]]:
    (table,) = (table for one in part.parts for table in (*one.tables, *one.folded) if table.title == title)
    return [[value.count or value.text for value in row if isinstance(value, Share)] for row in table.rows]


def test_numbers_are_those_of_the_records(tmp_path: Path) -> None:
    run = write_attack(tmp_path / "pgd", {GREY: 3, 2 * GREY: 11})
    part = section([run])
    assert shares(part, "Robust accuracy") == [["11 of 12", "8 of 12", "0 of 12"]]
    assert shares(part, "Success rate") == [["11 of 12", "3 of 11", "11 of 11"]]
    assert part.alarms == ()
    assert "still does for 67 % (" in part.verdicts[0]
    assert "at 1/255; 0 % (" in part.verdicts[0]
    told = Page(report([run], tmp_path / "page.html").read_text())
    assert "lesions under attack" in told.words
    assert {"1/255", "2/255"} <= {word.strip() for word in told.words}


def test_several_attacks_get_a_worst_case(tmp_path: Path) -> None:
    runs = [write_attack(tmp_path / "pgd", {GREY: 3}), write_attack(tmp_path / "square", {GREY: 5}, attack="square")]
    part = section(runs)
    assert [row[1:] for row in shares(part, "Robust accuracy")] == [["8 of 12"], ["6 of 12"], ["6 of 12"]]
    assert "Under pgd+square, linf" in part.verdicts[0]


@pytest.mark.parametrize(
    ("checks", "words"), [("failed", "masking suspected: it hides. Do not trust"), (None, "no self-checks were made")]
)
def test_doubts_are_alarms(checks: str | None, words: str, tmp_path: Path) -> None:
    run = write_attack(tmp_path / "pgd", {GREY: 3}, checks=checks)
    assert words in section([run]).alarms[0]
    assert words in report([run], tmp_path / "page.html").read_text()


def test_certificates_stand_beside_an_l2_attack_on_the_same_model(tmp_path: Path) -> None:
    certificates = write_run(tmp_path / "certify")
    attacked = write_attack(tmp_path / "l2", {0.1: 3, 0.25: 11, 9.0: 11}, norm="l2")
    part = section([attacked], lines([certificates]))
    (table,) = (table for one in part.parts for table in one.tables if table.title == "Side by side")
    assert [row[3] for row in table.rows] == ["0.1", "0.25"]  # 9 is beyond what the draws can prove
    assert [row[-1] for row in table.rows] == ["no", "no"]
    text = report([certificates, attacked], tmp_path / "page.html").read_text()
    assert "a certified line above an attacked one is no contradiction" in " ".join(text.split())
    assert not any(one.title.startswith("Certified") for one in section([attacked]).parts)
    linf = write_attack(tmp_path / "linf", {GREY: 3})
    assert not any(one.title.startswith("Certified") for one in section([linf], lines([certificates])).parts)


def test_the_strip_shows_what_broke_and_when(tmp_path: Path) -> None:
    run = write_attack(tmp_path / "pgd", {GREY: 1, 2 * GREY: 11})
    for directory, name in (
        ("", "test/000.png"),
        ("attacked", f"test/000.png|zero-shot|{GREY:g}"),
        ("change", f"test/000.png|zero-shot|{GREY:g}"),
    ):
        (run.path / "images" / directory).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(run.path / "images" / directory / thumbnail_name(name))
    (image,) = section([run]).strip
    assert (image.why, image.truth, image.before, image.after) == (
        "broken at 1/255",
        CLASSES[0],
        CLASSES[0],
        CLASSES[1],
    )
    assert image.change.startswith("data:image/png;base64,")


def test_attacks_are_not_broken_down(tmp_path: Path) -> None:
    run = write_attack(tmp_path / "pgd", {GREY: 3})
    with pytest.raises(InputError, match="runs of attack are not broken down"):
        report([run], tmp_path / "page.html", by="sex")
