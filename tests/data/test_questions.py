"""Questions as values: what a row asks, what counts as the same answer, and questions made from captions."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.making import picture
from titer.data import load_all, load_data, phantoms
from titer.data.example import Example
from titer.data.questions import (
    TEMPLATES,
    Question,
    asked,
    normalised,
    question_of,
    questions_of,
    vocabulary,
    with_answers,
)
from titer.errors import InputError

SMEARS = Path(__file__).parents[3] / "shared" / "data" / "blood_smears_captions"


def row(**attributes: str) -> Example:
    return Example("1", "1.png", None, None, None, "test", attributes)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Yes.", "yes"),
        ("  The Liver ", "liver"),
        ("two lobes", "2 lobes"),
        ("A", "a"),
        ("no", "no"),
        ("x-ray !", "x-ray"),
    ],
)
def test_the_same_answer_in_other_writing(written: str, meant: str) -> None:
    assert normalised(written) == meant


@given(st.text())
def test_an_answer_once_normalised_stays(answer: str) -> None:
    assert normalised(normalised(answer)) == normalised(answer)


def test_a_question_is_closed_by_its_answer_or_where_the_table_says_so() -> None:
    assert question_of(row(question="Is it big?", answer="Yes")) == Question("Is it big?", "yes", "closed")
    assert question_of(row(question="Where?", answer="Left lung")) == Question("Where?", "left lung", "open")
    assert question_of(row(question="CT or MRI?", answer="ct", answer_type="CLOSED ")) == Question(
        "CT or MRI?", "ct", "closed"
    )
    assert question_of(row(question="Where?", answer="no", kind="open")) == Question("Where?", "no", "open")


@pytest.mark.parametrize("lacking", [{"question": "Where?"}, {"answer": "yes"}, {"question": "Where?", "answer": "."}])
def test_a_row_without_question_or_answer_asks_nothing(lacking: dict[str, str]) -> None:
    assert question_of(row(**lacking)) is None


def test_answers_become_classes_and_one_that_is_not_known_has_no_label() -> None:
    rows = [row(question="a?", answer="Yes"), row(question="b?", answer="liver"), row(question="c?", answer="spleen")]
    answers = vocabulary(questions_of(rows[:2], "mine"))
    assert answers == ("liver", "yes")
    made = with_answers(replace(load_all("titer:phantoms"), examples=tuple(rows)), answers)
    assert [each.label for each in made.examples] == [1, 0, None]
    assert [text.label for text in made.classes] == ["liver", "yes"]


def test_one_answer_for_all_is_refused() -> None:
    with pytest.raises(InputError, match="all 2 questions have the answer 'yes'"):
        vocabulary([Question("a?", "yes", "closed"), Question("b?", "yes", "closed")])


def test_a_set_without_questions_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match="titer:phantoms has no questions") as caught:
        questions_of(load_data("titer:phantoms", limit=3).examples, "titer:phantoms")
    assert "\n" not in str(caught.value)


def test_a_table_of_questions_needs_neither_label_nor_caption(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    (tmp_path / "t.csv").write_text("path,question,answer\n1.png,Is it big?,yes\n1.png,Where?,left\n")
    data = load_all(tmp_path / "t.csv")
    assert [each.id for each in data.examples] == ["1.png", "1.png#2"]
    assert [question.kind for question in questions_of(data.examples, data.name)] == ["closed", "open"]


def test_vqa_rad_as_it_is_laid_out(tmp_path: Path) -> None:
    base = {"image_name": "synpic1.jpg", "question_type": "PRES"}
    rows = [
        {**base, "question": "Is it big?", "answer": "Yes", "answer_type": "CLOSED", "phrase_type": "freeform"},
        {**base, "question": "CT or MRI?", "answer": "MRI", "answer_type": "CLOSED ", "phrase_type": "para"},
        {**base, "question": "How many?", "answer": 2, "answer_type": "OPEN", "phrase_type": "test_para"},
    ]
    (tmp_path / "VQA_RAD Dataset Public.json").write_text(json.dumps(rows))
    found = load_data(f"set:vqa-rad@{tmp_path}", split="all")
    assert questions_of(found.examples, found.name) == [
        Question("Is it big?", "yes", "closed"),
        Question("CT or MRI?", "mri", "closed"),
        Question("How many?", "2", "open"),
    ]


def test_slake_in_english_as_it_is_laid_out(tmp_path: Path) -> None:
    base = {"img_id": 7, "img_name": "xmlab7/source.jpg", "content_type": "Organ"}
    rows = [
        {**base, "question": "Which organ?", "answer": "Liver", "q_lang": "en", "answer_type": "OPEN"},
        {**base, "question": "MRI?", "answer": "Yes", "q_lang": "en", "answer_type": "CLOSED"},
        {**base, "question": "哪个器官?", "answer": "肝", "q_lang": "zh", "answer_type": "OPEN"},
    ]
    for name in ("train", "validate", "test"):
        (tmp_path / f"{name}.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    found = load_data(f"set:slake@{tmp_path}")
    assert questions_of(found.examples, found.name) == [
        Question("Which organ?", "liver", "open"),
        Question("MRI?", "yes", "closed"),
    ]


def test_pathvqa_as_it_is_laid_out(tmp_path: Path) -> None:
    rows = [
        {"image": "x_0422", "question": "where is it?", "answer": "in the canals of hering"},
        {"image": "x_0422", "question": "is bile present?", "answer": "yes"},
    ]
    for split in ("train", "val", "test"):
        file = tmp_path / "qas" / split / f"{split}_qa.pkl"
        file.parent.mkdir(parents=True)
        file.write_bytes(pickle.dumps(rows))
    found = load_data(f"set:pathvqa@{tmp_path}")
    assert [question.kind for question in questions_of(found.examples, found.name)] == ["open", "closed"]


BLOOD = (
    "Blood smear with 17 red blood cells, one white blood cell and no platelets. The white blood cell is an eosinophil."
)


def answers_to(caption: str) -> dict[str, str]:
    found = {template.name: template.ask(caption) for template in TEMPLATES}
    return {name: question.answer for name, question in found.items() if question is not None}


def test_what_a_caption_of_a_blood_smear_answers() -> None:
    assert answers_to(BLOOD) == {
        "platelets": "0", "any-platelets": "no", "white-cells": "1", "white-type": "eosinophil", "neutrophil": "no",
        "eosinophil": "yes", "basophil": "no",
    }  # fmt: skip
    untyped = "Blood smear with 15 red blood cells, two white blood cells and three platelets."
    assert answers_to(untyped) == {"platelets": "3", "any-platelets": "yes", "white-cells": "2"}


def test_what_captions_of_drawn_pictures_answer() -> None:
    nodule = "a chest radiograph with a round nodule in the left lung"
    assert answers_to(nodule) == {"modality": "radiograph", "nodule": "yes", "effusion": "no", "side": "left"}
    lobes = "a blood smear with a neutrophil of five lobes and four red blood cells"
    assert answers_to(lobes)["lobes"] == "5"
    assert answers_to(lobes)["neutrophil"] == "yes"
    assert answers_to("a blood smear with five sickle cells among eleven red blood cells")["sickle"] == "5"
    assert answers_to("an H&E tile with 3 round glands") == {"modality": "h&e", "glands": "3"}


def test_questions_of_the_phantoms_keep_their_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantoms, "SIZES", {"train": 1, "test": 40})  # to draw all takes most of a minute
    data = load_data("questions:titer:phantoms", limit=4)
    one = data.examples[0]
    own = next(each for each in load_data("titer:phantoms").examples if each.id == one.id.partition("?")[0])
    assert data.name == "questions:titer:phantoms"
    assert (data.read(one).pixels == load_data("titer:phantoms").read(own).pixels).all()
    assert data.digest(one) == load_data("titer:phantoms").digest(own)


def test_captions_that_answer_nothing_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    (tmp_path / "t.csv").write_text("path,caption\n1.png,Something else.\n")
    with pytest.raises(InputError, match="no caption that answers"):
        asked(load_all(tmp_path / "t.csv"))


@pytest.mark.skipif(not SMEARS.is_dir(), reason=f"real blood smears are not at {SMEARS}")
def test_questions_of_real_blood_smears() -> None:
    data = load_data(f"questions:{SMEARS}", split="train")
    found = questions_of(data.examples, data.name)
    assert len(found) == 1383
    assert sum(question.kind == "closed" for question in found) == 781
    assert "basophil" in vocabulary(found)
