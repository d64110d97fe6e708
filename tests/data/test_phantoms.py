"""The drawn images: reproducible, balanced, described truly, neither trivial nor hopeless."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from titer.data.phantoms import CLASSES, SIZES, canvas, caption_of, label_of, phantom

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


@pytest.mark.parametrize(
    ("identifier", "sha256", "caption"),
    [
        ("train/0", "ac27377ad546c464", "a chest radiograph with clear lungs"),
        ("val/1", "2d802d659a6a70d4", "a chest radiograph with a consolidation in the left upper zone"),
        ("test/3", "212ef7a8d588cc93", "a chest radiograph with a round nodule in the left lung"),
        ("train/5", "badcaf97435c6486", "an H&E tile with 3 round glands"),
        ("test/6", "b16a41143155f9b5", "an H&E tile with a solid sheet of loosely packed tumour nuclei"),
        ("val/8", "d2942441b399f519", "an H&E tile of fat with large empty cells"),
        ("train/25", "58700bb1d1d1ca9b", "a blood smear with ten red blood cells and no white cell"),
        ("test/27", "2759fe890c045b5f", "a blood smear with a neutrophil of three lobes and eight red blood cells"),
        ("val/12", "0843e9ee5420d6ca", "a blood smear with five sickle cells among seven red blood cells"),
        ("train/13", "4eddca62e1476951", "a dermoscopy picture of a large symmetric naevus of even colour"),
        ("test/14", "1c30cdd84c056163", "a dermoscopy picture of a small irregular melanoma of several colours"),
        ("val/31", "754f53a3663d6aa2", "a dermoscopy picture of a large red plaque with white scales"),
    ],
)
def test_pictures_and_captions_never_change(identifier: str, sha256: str, caption: str) -> None:
    """Weights, prompts and results that ship with the package were made of these pixels."""
    split, index = identifier.split("/")
    drawn = phantom(split, int(index))
    assert (hashlib.sha256(drawn.pixels.tobytes()).hexdigest()[:16], drawn.caption) == (sha256, caption)


def test_a_caption_costs_no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {index: phantom("val", index).caption for index in range(len(CLASSES))}
    for name in ("gaussian_filter", "_edge"):
        monkeypatch.setattr(canvas, name, lambda *_, **__: pytest.fail("something was drawn"))
    assert {index: caption_of("val", index) for index in drawn} == drawn


def test_a_shape_is_the_same_whether_worked_out_everywhere_or_in_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    wavering = canvas.outline(generator, 0.3)

    def painted() -> list[canvas.Field]:
        shapes = (
            canvas.ellipse(0.4, 0.3, 0.05, 0.02, 0.7),
            canvas.blob(0.9, 0.1, 0.06, wavering),
            canvas.stroke(-0.1, 0.2, 0.3, 0.3, 0.01),
        )
        found = []
        for shape in shapes:
            found.append(np.full((96, 96, 3), 0.4))
            canvas.paint(found[-1], shape, (0.9, 0.5, 0.1), 0.8)
        return found

    inside = painted()
    monkeypatch.setattr(canvas, "_window", lambda *_: (slice(0, 96), slice(0, 96)))
    for one, other in zip(inside, painted(), strict=True):
        assert np.array_equal(one, other)
        assert 5 < (one != 0.4).any(axis=2).sum() < 96 * 96 / 2


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
