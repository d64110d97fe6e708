"""Class names and the words shown for them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from titer.data.example import ClassText, Data
from titer.errors import InputError, unknown

TEMPLATE = "a medical image of {}"
"""For a class without words of its own."""


@dataclass(frozen=True)
class Wording:
    """Classes and words that are given in the place of a set's own.

    Args:
        words: label -> text, or list of texts, in order of the classes' indices; the set's labels, written with spaces,
            where None. A class that is called differently in two layouts has both labels, as ``NC|0``.
        template: around each text; ``{}`` is where it goes.
    """

    words: Mapping[str, object] | None = None
    template: str = "{}"

    def __post_init__(self) -> None:
        if "{}" not in self.template:
            raise InputError(f"template: expected a text with {{}} for the class's words, got {self.template!r}")
        if self.words is not None and len(self.words) < 2:
            raise InputError(f"classes: expected at least two to tell apart, got {len(self.words)}")
        _ = self.classes(())  # what is malformed is told here

    def classes(self, labels: Iterable[str]) -> tuple[ClassText, ...]:
        """The classes, with whole texts; of ``labels`` in their order where there are no words."""
        known = list(labels)
        given = {label: _spaced(label) for label in known} if self.words is None else self.words
        words = {_called(label, known): value for label, value in given.items()}
        return tuple(
            ClassText(label, tuple(self.template.replace("{}", text) for text in _texts("classes", label, value)))
            for label, value in words.items()
        )


def _called(label: str, known: Sequence[str]) -> str:
    """Which of a class's labels a data set has; the first if none."""
    if label in known:
        return label
    ways = label.split("|")
    return next((way for way in ways if way in known), ways[0])


def reworded(data: Data, wording: Wording) -> Data:
    """A data set with other words, and in another order of its classes where words are given for them.

    Raises:
        InputError: for a label without words.
    """
    data.check_exclusive("other words for classes")
    old = [text.label for text in data.classes]
    classes = wording.classes(old)
    places = {text.label: place for place, text in enumerate(classes)}
    present = {example.label for example in data.examples if example.label is not None}
    for label in sorted(old[place] for place in present):
        if label not in places:
            raise unknown(f"label of {data.name} (it is not in the given classes):", label, places)
    examples = tuple(
        example if example.label is None else replace(example, label=places[old[example.label]])
        for example in data.examples
    )
    return replace(data, classes=classes, examples=examples)


def class_texts(file: Path | None, labels: Iterable[str | None], template: str = TEMPLATE) -> tuple[ClassText, ...]:
    """The classes of a set: those of ``classes.json`` in file order, or all labels, sorted (whole numbers as numbers).

    Args:
        file: where ``classes.json`` would be; None where there is no place for it.
        labels: of all examples of all splits; None is no label.
        template: for labels without words; ``{}`` is where the label goes, written with spaces.

    Returns:
        The classes in order of their indices; none where there are neither labels nor a file.

    Raises:
        InputError: for a malformed file, a label it does not name, or fewer than two classes.
    """
    present = {label for label in labels if label is not None}
    if file is not None and file.exists():
        classes = _read(file)
        known = [text.label for text in classes]
        for label in _sorted(present - set(known)):
            raise unknown(f"label (it is not in {file.name}):", label, known)
    else:
        classes = tuple(ClassText(label, (template.replace("{}", _spaced(label)),)) for label in _sorted(present))
    if len(classes) == 1:
        raise InputError(f"only one class, {classes[0].label!r}: expected at least two to tell apart")
    return classes


def _read(file: Path) -> tuple[ClassText, ...]:
    try:
        words = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not valid: {error}") from error
    if not isinstance(words, dict) or not words:
        got = type(words).__name__ if words else "nothing"
        raise InputError(f'{file}: expected an object such as {{"label": "text", ...}}, got {got}')
    return tuple(ClassText(label, _texts(file, label, value)) for label, value in words.items())


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return dict(pairs)


def _texts(file: Path | str, label: str, value: object) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(f"{file}: class {label!r} needs a text or a list of texts, got {value!r}")
    return tuple(texts)


def _spaced(label: str) -> str:
    return " ".join(label.replace("_", " ").split())


def _sorted(labels: set[str]) -> list[str]:
    whole = all(re.fullmatch(r"-?[0-9]+", label) for label in labels)
    return sorted(labels, key=lambda label: (int(label), label)) if whole else sorted(labels)
