"""Questions about pictures: rows of a table with a question and its answer, or made from captions by fixed templates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from titer.data.example import ClassText, Data, Example
from titer.errors import InputError

Kind = Literal["open", "closed"]
"""Closed questions are answered by yes or no, or are those that the table calls so."""

QUESTION, ANSWER = "question", "answer"
_KINDS = ("answer_type", "kind")  # columns that say which; VQA-RAD and SLAKE have the first
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS)}


@dataclass(frozen=True)
class Question:
    """What is asked of a picture.

    Args:
        text: the question as it stands in the table.
        answer: the right one, normalised.
        kind: open or closed.
    """

    text: str
    answer: str
    kind: Kind


def normalised(answer: str) -> str:
    """An answer in lower case, without spaces, full stops and articles around it; number words are digits."""
    words = re.sub(r"[\s.!]+$", "", answer.lower()).split()
    while len(words) > 1 and words[0] in ("a", "an", "the"):
        words = words[1:]
    return " ".join(_DIGITS.get(word, word) for word in words)


def question_of(example: Example) -> Question | None:
    """The question of a row; None where the row lacks it or its answer."""
    text, answer = (example.attributes.get(name) for name in (QUESTION, ANSWER))
    if text is None or answer is None or not normalised(answer):
        return None
    told = next((example.attributes[name].strip().lower() for name in _KINDS if name in example.attributes), None)
    closed = normalised(answer) in ("yes", "no") if told not in ("open", "closed") else told == "closed"
    return Question(text, normalised(answer), "closed" if closed else "open")


def questions_of(examples: Sequence[Example], name: str) -> list[Question]:
    """The questions of all rows that have one.

    Args:
        examples: rows.
        name: of their data set, for the error.

    Raises:
        InputError: if no row has one.
    """
    found = [question for example in examples if (question := question_of(example)) is not None]
    if not found:
        raise InputError(
            f"{name} has no questions in this split; expected a table with columns 'question' and 'answer', or questions:DATA "
            "to make them from captions"
        )
    return found


def vocabulary(questions: Sequence[Question]) -> tuple[str, ...]:
    """All answers, sorted: what a model that was fitted on these questions can say.

    Raises:
        InputError: if all have the same answer.
    """
    answers = tuple(sorted({question.answer for question in questions}))
    if len(answers) < 2:
        raise InputError(
            f"all {len(questions)} questions have the answer {answers[0]!r}, so there is nothing to learn; expected two answers "
            "or more"
        )
    return answers


def with_answers(data: Data, answers: Sequence[str]) -> Data:
    """The set with answers as its classes; a row whose answer is not among them has no label."""
    places = {answer: place for place, answer in enumerate(answers)}

    def label(example: Example) -> int | None:
        question = question_of(example)
        return None if question is None else places.get(question.answer)

    return replace(
        data,
        classes=tuple(ClassText(answer, (answer,)) for answer in answers),
        examples=tuple(replace(example, label=label(example)) for example in data.examples),
    )


@dataclass(frozen=True)
class Template:
    """A question that a caption answers.

    Args:
        name: part of the question's id.
        question: what is asked.
        about: pattern of captions that say something of it; others are not asked.
        answer: pattern whose group is the answer; without a group the answer is yes where it is found, else no.
    """

    name: str
    question: str
    about: str
    answer: str

    def ask(self, caption: str) -> Question | None:
        """The question and what the caption answers; None for a caption that says nothing of it."""
        if not re.search(self.about, caption):
            return None
        found = re.search(self.answer, caption)
        if not re.compile(self.answer).groups:
            return Question(self.question, "no" if found is None else "yes", "closed")
        counted = {"no": "0"}  # a count, not the answer to a closed question
        return None if found is None else Question(self.question, counted.get(found[1], normalised(found[1])), "open")


_TYPED = (
    "white blood cell is|no white cell|with a (?:lymphocyte|neutrophil)"  # captions that tell all white cells' types
)
_FILM = "chest radiograph"

TEMPLATES: tuple[Template, ...] = (
    Template("platelets", "How many platelets are there?", "platelet", r"\b(\w+) platelets?\b"),
    Template("any-platelets", "Are there any platelets?", "platelet", r"(?<!\bno )platelet"),
    Template("white-cells", "How many white blood cells are there?", "platelet", r"\b(\w+) white blood cells? and"),
    Template("white-type", "Which type is the white blood cell?", "cell is", r"white blood cell is an? (\w+)"),
    Template("neutrophil", "Is there a neutrophil?", _TYPED, "an? neutrophil"),
    Template("eosinophil", "Is there an eosinophil?", _TYPED, "an? eosinophil"),
    Template("basophil", "Is there a basophil?", _TYPED, "an? basophil"),
    Template("modality", "Which modality is this?", "^an? ", "(radiograph|blood smear|dermoscopy|H&E)"),
    Template("nodule", "Is there a nodule?", _FILM, "nodule"),
    Template("effusion", "Is there a pleural effusion?", _FILM, "effusion"),
    Template("side", "On which side is the finding?", _FILM, r"\b(left|right)\b"),
    Template("lobes", "How many lobes does the nucleus have?", "lobes", r"\b(\w+) lobes"),
    Template("sickle", "How many sickle cells are there?", "sickle", r"\b(\w+) sickle cells"),
    Template("glands", "How many glands are there?", "glands", r"\b(\w+) round glands"),
)
"""For the captions of blood smears and of ``titer:phantoms``."""


def asked(data: Data) -> Data:
    """The set with a row for each question that a template makes of a caption; its id is the picture's and the template's.

    Raises:
        InputError: if no caption answers any of them.
    """
    sources, examples = {}, []
    for example in data.examples:
        for template in TEMPLATES:
            question = template.ask(example.caption or "")
            if question is not None:
                identifier = f"{example.id}?{template.name}"
                sources[identifier] = example
                said = {QUESTION: question.text, ANSWER: question.answer, "answer_type": question.kind}
                attributes = {**example.attributes, **said}
                examples.append(replace(example, id=identifier, label=None, attributes=attributes))
    if not examples:
        raise InputError(
            f"{data.name} has no caption that answers a question of the templates, which are for blood smears and "
            "titer:phantoms; expected a table with columns 'question' and 'answer'"
        )
    return replace(
        data,
        name=f"questions:{data.name}",
        classes=(),
        examples=tuple(examples),
        columns=tuple(dict.fromkeys((*data.columns, QUESTION, ANSWER, "answer_type"))),
        read=lambda example: data.read(sources[example.id]),
        digest=lambda example: data.digest(sources[example.id]),
    )
