"""Weak transforms by hand, and the shift they cause."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from images import brightness_encoder
from titer.attacks import Random
from titer.upstream.audit.transforms import TRANSFORMS, shifts, transform

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def random() -> Random:
    return Random(0, "test", ["one", "two"])


def test_each_transform_is_what_it_says() -> None:
    pixel = TRANSFORMS["pixel"](IMAGES, random())
    assert (pixel[..., 1:, 1:] == IMAGES[..., :-1, :-1]).all()
    assert (pixel[..., 0, 1:] == IMAGES[..., 0, :-1]).all()
    noise = TRANSFORMS["noise"](torch.full((2, 3, 99, 99), 0.5), random()) - 0.5
    assert float(noise.std()) == pytest.approx(4 / 255, rel=0.02)
    file = io.BytesIO()
    grey = (IMAGES[1].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    Image.fromarray(grey).save(file, "JPEG", quality=75)
    assert np.allclose(TRANSFORMS["jpeg"](IMAGES, random())[1].permute(1, 2, 0), np.asarray(Image.open(file)) / 255)
    assert TRANSFORMS["rescale"](torch.full((1, 3, 10, 10), 0.3), random()).flatten() == pytest.approx(0.3)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_stay_in_the_box_and_keep_rows_apart(name: str) -> None:
    changed = TRANSFORMS[name](IMAGES, random())
    assert changed.shape == IMAGES.shape
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
    alone = TRANSFORMS[name](IMAGES[1:], Random(0, "test", ["two"]))
    assert torch.allclose(changed[1:], alone, atol=1e-6)


def test_shifts_are_distances_of_unit_features() -> None:
    encoder = brightness_encoder()
    found = shifts(encoder, IMAGES, random())
    moved = encoder.encode_image(TRANSFORMS["pixel"](IMAGES, random())) - encoder.encode_image(IMAGES)
    assert found.shape == (2, 4)
    assert torch.allclose(found[:, 2], moved.norm(dim=1))


def test_the_signal_is_relative_to_the_median_image() -> None:
    shifted = np.array([[1.0, 10], [2, 20], [3, 60]])
    assert transform(shifted) == pytest.approx([(0.5 + 0.5) / 2, 1, (1.5 + 3) / 2])
    assert np.isfinite(transform(np.array([[0.0], [0], [1]]))).all()
