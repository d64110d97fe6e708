"""Labelled images as values: a data set is a list of examples and a way to read their pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from titer.errors import InputError


@dataclass(frozen=True)
class ClassText:
    """A class and the whole texts shown to the text tower for it."""

    label: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Example:
    """One row of a data set; its picture is not yet read.

    Args:
        id: unique in the data set, without the root.
        path: of the picture, relative to the root with forward slashes.
        label: index into the classes, or None.
        caption: what the table says of the picture, or None.
        group: patient, slide or whatever ties pictures together, or None.
        split: train, val, test, ...
        attributes: the table's other columns; an empty cell is left out.
        findings: where a set has several labels for an image, which of its classes are there; None is not known.
    """

    id: str
    path: str
    label: int | None
    caption: str | None
    group: str | None
    split: str
    attributes: Mapping[str, str]
    findings: tuple[bool | None, ...] = ()


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Args:
        pixels: float32 (height, width, 1 or 3) in [0, 1].
        sha256: of the file's bytes, hexadecimal (of the pixels' bytes where there is no file).
        decoded: how pixels came from a DICOM file's values, such as its window; None for other files.
    """

    pixels: NDArray[np.float32]
    sha256: str
    decoded: str | None = None


@dataclass(frozen=True)
class Data:
    """Labelled images.

    Args:
        name: as the user gave it, or the last part of a directory or table: never the whole path.
        split: which split was asked for.
        limit: how many images were asked for, or None.
        classes: all classes of the set; neither split nor limit changes them.
        examples: the images of this split.
        columns: the table's columns that examples carry as attributes.
        read: decodes an example's picture; raises PictureError.
        digest: SHA-256 of an example's file, or what stands for it where there is no file; raises PictureError.
        altered: what is done to pictures after decoding; part of a run's identity.
        outside: what there is to say of paths that lead out of the set's directory; empty where none does.
        exclusive: whether an image is of one class; else classes are findings, of which it may have several or none.
    """

    name: str
    split: str
    limit: int | None
    classes: tuple[ClassText, ...]
    examples: tuple[Example, ...]
    columns: tuple[str, ...]
    read: Callable[[Example], Picture]
    digest: Callable[[Example], str]
    altered: tuple[str, ...] = ()
    outside: str = ""
    exclusive: bool = True

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def source(self) -> str:
        """Name of the set that it is made of: within it a group's name means the same."""
        return source_of(self.name)

    def check_exclusive(self, what: str) -> None:
        """Refuse a set with several labels for an image.

        Raises:
            InputError: naming what needs one.
        """
        if not self.exclusive:
            raise InputError(f"{self.name} has several labels for an image; {what} needs one class for each")

    @property
    def counts(self) -> dict[str, int]:
        """Images of each class in this split, classes without any included; images without a label are not counted."""
        if not self.exclusive:
            there = [
                sum(example.findings[place] is True for example in self.examples) for place in range(len(self.classes))
            ]
            return {text.label: number for text, number in zip(self.classes, there, strict=True)}
        found = Counter(example.label for example in self.examples)
        return {text.label: found[place] for place, text in enumerate(self.classes)}


def source_of(name: str) -> str:
    """Name of the set that one of this name is made of: ``t.csv`` for ``questions:t.csv`` and ``classes:base@t.csv``."""
    return name.rpartition("@")[2].removeprefix("questions:").removeprefix("captioned:").removeprefix("multilabel:")
