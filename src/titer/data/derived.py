"""Data sets made of others: some classes, several sets in one label space, DICOM in another window, files hashed once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from titer.data.dicom import Choice, window_of
from titer.data.example import ClassText, Data, Example, Picture
from titer.errors import InputError, PictureError, unknown

Answer = TypeVar("Answer")
Inner = Mapping[str, tuple[Data, Example]]
"""Of each id in the pool: the set that the example comes from, and the example there."""

BASE, NEW = "base", "new"
"""The first half of a set's classes (the larger one), and the rest: the field's base-to-new protocol (Zhou et al., CVPR 2022)."""
_FEWEST = 4


def some_classes(data: Data, which: str) -> Data:
    """A data set without the images of other classes, and without these classes.

    Args:
        data: the whole.
        which: ``base``, ``new``, or labels joined by ``+``, in this order.

    Raises:
        InputError: for a label it does not have or that is given twice, and where fewer than two classes would be left.
    """
    data.check_exclusive("a choice of classes")
    known = [text.label for text in data.classes]
    labels = _half(data.name, known, which) if which in (BASE, NEW) else which.split("+")
    for label in labels:
        if label not in known:
            raise unknown(f"class of {data.name}", label, [BASE, NEW, *known])
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise InputError(f"classes {which!r}: expected at least two labels, each once, such as {'+'.join(known[:2])}")
    places = {known.index(label): place for place, label in enumerate(labels)}
    examples = tuple(
        replace(example, label=places[example.label]) for example in data.examples if example.label in places
    )
    return replace(
        data,
        name=f"classes:{which}@{data.name}",
        classes=tuple(data.classes[known.index(label)] for label in labels),
        examples=examples,
    )


def _half(name: str, labels: Sequence[str], which: str) -> Sequence[str]:
    if len(labels) < _FEWEST:
        raise InputError(
            f"{name} has {len(labels)} classes: base-to-new needs two on each side; expected a set of at least {_FEWEST}, or "
            "several sets as pooled:SET,SET"
        )
    base = (len(labels) + 1) // 2
    return labels[:base] if which == BASE else labels[base:]


def part_of_train(data: Data, text: str) -> Data:
    """The set with a part of its images to train on; the rest of them is left out, other splits stay whole.

    Which part is a function of the group, or of the id where there is none, so that a smaller part is inside a larger one.

    Args:
        data: the whole.
        text: a share above 0 and below 1.

    Raises:
        InputError: for another text.
    """
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise InputError(
            f"train {text!r}: expected a share above 0 and below 1, such as 0.8, or rest-0.8 for what it leaves"
        )
    examples = tuple(example for example in data.examples if example.split != "train" or _place(example) < share)
    return replace(data, name=f"train:{text}@{data.name}", examples=examples)


def _place(example: Example) -> float:
    """Uniform in [0, 1), the same for all of a group."""
    key = f"{example.id if example.group is None else example.group}"
    return int.from_bytes(hashlib.sha256(f"train\x00{key}".encode()).digest()[:8], "big") / 2**64


def hashed_once(data: Data) -> Data:
    """The same data, each of whose files is hashed once: for many fits, each of which compares its images with all others."""
    known: dict[str, str] = {}

    def digest(example: Example) -> str:
        if example.id not in known:
            known[example.id] = data.digest(example)
        return known[example.id]

    return replace(data, digest=digest)


def pooled(parts: Sequence[Data]) -> Data:
    """Several data sets in one label space, in this order; labels, ids and groups get their set's name in front.

    Raises:
        InputError: for fewer than two sets, two of one name, or one without classes.
    """
    names = [part.name for part in parts]
    if len(parts) < 2 or len(set(names)) < len(names):
        raise InputError(
            f"pooled: expected at least two data sets of different names, got {', '.join(names) or 'none'}"
        )
    for part in parts:
        part.check_exclusive("a pool")
        if not part.classes:
            raise InputError(f"{part.name} has no labels, so it cannot share a label space")
    starts = {part.name: sum(len(other.classes) for other in parts[:place]) for place, part in enumerate(parts)}
    inner = {f"{part.name}/{example.id}": (part, example) for part in parts for example in part.examples}
    return Data(
        name=f"pooled:{','.join(names)}",
        split=parts[0].split,
        limit=None,
        classes=tuple(ClassText(f"{part.name}/{text.label}", text.texts) for part in parts for text in part.classes),
        examples=tuple(_renamed(part, starts[part.name], example) for part, example in inner.values()),
        columns=tuple(dict.fromkeys(column for part in parts for column in part.columns)),
        read=_by(inner, lambda part, example: part.read(example)),
        digest=_by(inner, lambda part, example: part.digest(example)),
        altered=tuple(f"{part.name}: {change}" for part in parts for change in part.altered),
        outside=next((part.outside for part in parts if part.outside), ""),
    )


def _renamed(part: Data, start: int, example: Example) -> Example:
    return replace(
        example,
        id=f"{part.name}/{example.id}",
        path=f"{part.name}/{example.path}",
        label=None if example.label is None else start + example.label,
        group=None if example.group is None else f"{part.name}/{example.group}",
    )


def _by(inner: Inner, asked: Callable[[Data, Example], Answer]) -> Callable[[Example], Answer]:
    """What the set that an example comes from says of it."""
    return lambda example: asked(*inner[example.id])


def windowed(data: Data, which: str) -> Data:
    """A data set of DICOM files seen through one window.

    Args:
        data: the whole.
        which: ``40/400``, center and width in the files' units, or ``2``, the second window of each file.

    Raises:
        InputError: for another ``which``. A picture that has no such window fails when it is read.
    """
    try:
        said = Choice(window=window_of(which)).said
    except PictureError as error:
        raise InputError(str(error)) from error

    def read(example: Example) -> Picture:
        mark = "&" if "#" in example.path else "#"
        picture = data.read(replace(example, path=f"{example.path}{mark}window={which}"))
        if f"{said} " not in f"{picture.decoded} ":
            raise PictureError("no window can be chosen: windowed:WINDOW@DATA needs DICOM files right behind the @")
        return picture

    return replace(data, name=f"windowed:{which}@{data.name}", read=read, altered=(*data.altered, said))
