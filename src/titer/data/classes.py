"""Class names and the words shown for them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from titer.data.example import ClassText
from titer.errors import InputError, unknown

TEMPLATE = "a medical image of {}"
"""For a class without words of its own."""


def class_texts(file: Path, labels: Iterable[str | None], template: str = TEMPLATE) -> tuple[ClassText, ...]:
    """The classes of a set: those of ``classes.json`` in file order, or all labels, sorted (whole numbers as numbers).

    Args:
        file: where ``classes.json`` would be.
        labels: of all examples of all splits; None is no label.
        template: for labels without words; ``{}`` is where the label goes, written with spaces.

    Returns:
        The classes in order of their indices; none where there are neither labels nor a file.

    Raises:
        InputError: for a malformed file, a label it does not name, or fewer than two classes.
    """
    present = {label for label in labels if label is not None}
    if file.exists():
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


def _texts(file: Path, label: str, value: object) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(f"{file}: class {label!r} needs a text or a list of texts, got {value!r}")
    return tuple(texts)


def _spaced(label: str) -> str:
    return " ".join(label.replace("_", " ").split())


def _sorted(labels: set[str]) -> list[str]:
    whole = all(re.fullmatch(r"-?[0-9]+", label) for label in labels)
    return sorted(labels, key=lambda label: (int(label), label)) if whole else sorted(labels)
