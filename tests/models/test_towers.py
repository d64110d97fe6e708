"""Image towers that a method can reach into."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

import titer
from images import brightness_encoder
from tiny_models import clip_directory, siglip_directory
from titer.errors import InputError
from titer.models import load_model
from titer.models.towers import vision_tower


@pytest.mark.parametrize("directory", [clip_directory, siglip_directory])
def test_a_copy_has_weights_of_its_own(directory: type, tmp_path: Path) -> None:
    encoder = load_model(directory(tmp_path))
    images = torch.rand(2, 3, encoder.size, encoder.size)
    before = encoder.encode_image(images)
    other = copy.deepcopy(vision_tower(encoder))
    assert torch.equal(other(images), encoder.image_tower(images))
    for weight in other.vision.parameters():
        weight.zero_()
    assert torch.equal(encoder.encode_image(images), before)


def test_a_tower_that_hides_its_layers_is_refused_with_the_kinds_that_work() -> None:
    with pytest.raises(InputError, match=r"brightness: .* hides its layers.* titer:tiny, or a CLIP or SigLIP"):
        vision_tower(brightness_encoder())


def test_a_wrapped_tower_is_fingerprinted_by_its_weights(tmp_path: Path) -> None:
    encoder = load_model(clip_directory(tmp_path))
    other = copy.deepcopy(vision_tower(encoder))
    next(other.vision.parameters()).add_(1.0)
    prints = {
        titer.wrap(tower, encoder.text_tower, encoder.size, (0.5,) * 3, (0.5,) * 3).fingerprint
        for tower in (encoder.image_tower, encoder.image_tower, other)
    }
    assert len(prints) == 2
