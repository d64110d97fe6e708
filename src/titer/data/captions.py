"""Captions for labelled images: the words of the class in many phrasings, so that a caption says what the label says."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from titer.data.example import Data, Example
from titer.errors import InputError

PHRASES: tuple[str, ...] = (
    "{}",
    "{}.",
    "this is {}",
    "this picture is {}",
    "this image shows {}",
    "an image of {}",
    "a picture of {}",
    "a medical image of {}",
    "a photo of {}",
    "a clinical picture of {}",
    "a scan: {}",
    "an example of {}",
    "a typical case: {}",
    "a case of the archive: {}",
    "shown here is {}",
    "seen here: {}",
    "here one sees {}",
    "figure: {}",
    "diagnosis: {}",
    "impression: {}",
    "report: {}",
    "findings: {}",
    "for teaching: {}",
    "from the daily routine: {}",
)
"""``{}`` stands for the words of the class."""


def captioned(data: Data) -> Data:
    """The set with a caption for each labelled image, in the place of its own; which phrase is a function of the id.

    Raises:
        InputError: for a set without classes.
    """
    data.check_exclusive("a caption made of it")
    if not data.classes:
        raise InputError(f"{data.name} has no labels to make captions of; expected a column 'label'")
    return replace(
        data,
        name=f"captioned:{data.name}",
        examples=tuple(replace(example, caption=_caption(data, example)) for example in data.examples),
    )


def _caption(data: Data, example: Example) -> str | None:
    if example.label is None:
        return None
    texts = data.classes[example.label].texts
    drawn = int.from_bytes(hashlib.sha256(f"caption\x00{example.id}".encode()).digest()[:8], "big")
    return PHRASES[drawn % len(PHRASES)].format(texts[drawn // len(PHRASES) % len(texts)])
