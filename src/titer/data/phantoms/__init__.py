"""`titer:phantoms`: medical-looking images drawn by code. Nothing is downloaded and nobody was examined.

An image is a pure function of its split and index; splits never share one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from titer.data.phantoms import histology, radiograph, skin, smear
from titer.data.phantoms.canvas import Drawing

Draw = Callable[[np.random.Generator], Drawing]

_CLASSES: tuple[tuple[str, str, str, Draw], ...] = (
    ("clear_lungs", "a chest radiograph with clear lungs", "radiograph", radiograph.clear),
    ("consolidation", "a chest radiograph with a consolidation", "radiograph", radiograph.consolidation),
    ("effusion", "a chest radiograph with a pleural effusion", "radiograph", radiograph.effusion),
    ("nodule", "a chest radiograph with a nodule", "radiograph", radiograph.nodule),
    ("large_heart", "a chest radiograph with an enlarged heart", "radiograph", radiograph.large_heart),
    ("glands", "an H&E tile with glands", "histology", histology.glands),
    ("solid_tumour", "an H&E tile with a solid sheet of tumour nuclei", "histology", histology.solid),
    ("stroma", "an H&E tile of fibrous stroma", "histology", histology.stroma),
    ("fat", "an H&E tile of fat", "histology", histology.fat),
    ("red_cells", "a blood smear with red blood cells only", "smear", smear.red_cells),
    ("lymphocyte", "a blood smear with a lymphocyte", "smear", smear.lymphocyte),
    ("neutrophil", "a blood smear with a neutrophil", "smear", smear.neutrophil),
    ("sickle_cells", "a blood smear with sickle cells", "smear", smear.sickle),
    ("naevus", "a dermoscopy picture of a naevus", "skin", skin.naevus),
    ("melanoma", "a dermoscopy picture of a melanoma", "skin", skin.melanoma),
    ("plaque", "a dermoscopy picture of a scaly plaque", "skin", skin.plaque),
)

CLASSES: tuple[tuple[str, str], ...] = tuple((label, words) for label, words, _, _ in _CLASSES)
"""(label, words shown to the text tower), in order of the class indices."""

FINDINGS: Mapping[str, str] = {
    "right": r"\bright\b",
    "left": r"\bleft\b",
    "lung_opacity": "consolidation|effusion|nodule",
    "tumour": "tumour|melanoma",
    "nuclei": "gland|nuclei|nucleus|lobes",
    "red_cells": r"\b(?!no\b)\w+ red blood cells",
    "white_cell": "lymphocyte|neutrophil",
    "large": r"\blarge\b",
}
"""What several pictures may show, whatever their class: finding -> what a caption says of it, and no other caption does."""

SIZES: Mapping[str, int] = {"train": 1600, "val": 320, "test": 640}
"""Images in each split; every class has the same number."""


@dataclass(frozen=True)
class Phantom:
    """One drawn image.

    Args:
        pixels: float32 (96, 96, 1 or 3) in [0, 1].
        label: index into ``CLASSES``.
        caption: says what was drawn.
        modality: ``radiograph``, ``histology``, ``smear`` or ``skin``.
    """

    pixels: NDArray[np.float32]
    label: int
    caption: str
    modality: str


def label_of(index: int) -> int:
    """Class of the image with this index: they take turns."""
    return index % len(_CLASSES)


def phantom(split: str, index: int) -> Phantom:
    """Draw image ``index`` of a split."""
    label, drawing = label_of(index), _begun(split, index)
    caption = next(drawing)
    try:
        next(drawing)
    except StopIteration as end:
        return Phantom(np.ascontiguousarray(end.value, np.float32), label, caption, _CLASSES[label][2])
    raise AssertionError("a drawing yields its caption and nothing else")


def caption_of(split: str, index: int) -> str:
    """What is drawn in image ``index`` of a split, without drawing it."""
    return next(_begun(split, index))


def findings_of(caption: str) -> dict[str, bool]:
    """Which of the findings a caption names."""
    return {name: re.search(said, caption) is not None for name, said in FINDINGS.items()}


def _begun(split: str, index: int) -> Drawing:
    seed = hashlib.sha256(f"phantoms/{split}/{index}".encode()).digest()[:16]
    return _CLASSES[label_of(index)][3](np.random.default_rng(int.from_bytes(seed, "big")))
