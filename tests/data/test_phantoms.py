"""The drawn images: reproducible, balanced, described truly, neither trivial nor hopeless."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from titer.data.phantoms import CLASSES, SIZES, label_of, phantom

MODALITIES = {"radiograph": 5, "histology": 4, "smear": 4, "skin": 3}
SAID = {
    "consolidation": "consolidation", "effusion": "effusion", "nodule": "nodule", "large_heart": "enlarged heart",
    "clear_lungs": "clear", "glands": "gland", "solid_tumour": "solid", "stroma": "stroma", "fat": "fat",
    "red_cells": "no white cell", "lymphocyte": "lymphocyte", "neutrophil": "neutrophil", "sickle_cells": "sickle",
    "naevus": "naevus", "melanoma": "melanoma", "plaque": "plaque",
}  # fmt: skip


def test_an_image_is_a_function_of_split_and_index() -> None:
    later = phantom("test", 21)
    phantom("test", 3)
    assert np.array_equal(phantom("test", 21).pixels, later.pixels)
    assert phantom("test", 21).caption == later.caption
    assert not np.array_equal(phantom("train", 21).pixels, later.pixels)
    assert not np.array_equal(phantom("test", 21 + len(CLASSES)).pixels, later.pixels)


@pytest.mark.parametrize("index", range(2 * len(CLASSES)))
def test_range_channels_and_captions(index: int) -> None:
    drawn = phantom("val", index)
    channels = 1 if drawn.modality == "radiograph" else 3
    assert drawn.pixels.shape == (96, 96, channels)
    assert drawn.pixels.dtype == np.float32
    assert 0 <= drawn.pixels.min() < drawn.pixels.max() <= 1
    assert drawn.pixels.std() > 0.02
    assert SAID[CLASSES[drawn.label][0]] in drawn.caption


def test_every_class_has_the_same_number_of_images() -> None:
    for size in SIZES.values():
        counts = Counter(label_of(index) for index in range(size))
        assert set(counts.values()) == {size // len(CLASSES)}
    assert Counter(phantom("train", index).modality for index in range(len(CLASSES))) == MODALITIES


def test_colour_alone_does_not_tell_but_pictures_do() -> None:
    """Within a modality, mean colour is not enough; a linear probe on small pictures is better, and not perfect."""
    drawn = [phantom("train", index) for index in range(25 * len(CLASSES)) if 5 <= label_of(index) < 13]
    pixels = np.stack([one.pixels for one in drawn])
    labels = np.array([one.label for one in drawn])
    colours = pixels.mean(axis=(1, 2))
    small = pixels.reshape(len(drawn), 12, 8, 12, 8, 3).mean(axis=(2, 4)).reshape(len(drawn), -1)
    by_colour, by_pixels = (
        cross_val_score(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)), features, labels, cv=4
        ).mean()
        for features in (colours, small)
    )
    assert 1 / 8 < by_colour < 0.75
    assert by_colour < by_pixels < 0.99


def test_a_side_is_said_as_a_radiologist_says_it() -> None:
    """The patient's right is on the left of the picture."""
    sides = set()
    for index in range(2, 30 * len(CLASSES), len(CLASSES)):
        drawn = phantom("train", index)
        left, right = drawn.pixels[55:80, 15:40].mean(), drawn.pixels[55:80, 56:81].mean()
        side = "right" if drawn.caption.endswith("right") else "left"
        assert (left > right) == (side == "right"), drawn.caption
        sides.add(side)
    assert sides == {"left", "right"}
