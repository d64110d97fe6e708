"""Class names and the words shown for them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from titer.data.example import ClassText
from titer.errors import InputError, unknown

TEMPLATE = "a medical image of {}"
"""For a class without words of its own."""


def class_texts(file: Path, labels: Iterable[str | None]) -> tuple[ClassText, ...]:
    """The classes of a set: those of ``classes.json`` in file order, or all labels, sorted (whole numbers as numbers).

    Args:
        file: where ``classes.json`` would be.
        labels: of all examples of all splits; None is no label.

    Raises:
        InputError: for a malformed file, a label it does not name, or fewer than two classes.
    """
    present = {label for label in labels if label is not None}
    if file.exists():
        classes = _read(file)
        known = [text.label for text in classes]
        for label in sorted(present - set(known)):
            raise unknown(f"label (it is not in {file.name}):", label, known)
    else:
        classes = tuple(ClassText(label, (TEMPLATE.format(label.replace("_", " ")),)) for label in _sorted(present))
    if present and len(classes) < 2:
        raise InputError(f"only one class, {classes[0].label!r}: expected at least two to tell apart")
    return classes


def _read(file: Path) -> tuple[ClassText, ...]:
    try:
        words = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise InputError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(words, dict) or not words:
        raise InputError(f'{file}: expected an object such as {{"label": "text"}}, got {type(words).__name__}')
    return tuple(ClassText(label, _texts(file, label, value)) for label, value in words.items())


def _texts(file: Path, label: str, value: object) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(f"{file}: class {label!r} needs a text or a list of texts, got {value!r}")
    return tuple(texts)


def _sorted(labels: set[str]) -> list[str]:
    whole = all(label.isdecimal() for label in labels)
    return sorted(labels, key=int) if whole else sorted(labels)
