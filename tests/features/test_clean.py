"""One pass over pictures: the same features whoever reads them, in order, and what cannot be read left out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from images import SIZE, brightness_encoder
from titer.data.load import load_all
from titer.features.clean import clean_features
from titer.noise import BLOCK


@pytest.mark.parametrize("workers", [1, 3])
def test_features_are_those_of_the_pictures_one_by_one(tmp_path: Path, workers: int) -> None:
    count = 2 * BLOCK + 3
    for place in range(count):
        Image.fromarray(np.full((SIZE, SIZE), place, np.uint8)).save(tmp_path / f"{place:03}.png")
    (tmp_path / "007.png").write_bytes(b"no picture")
    lines = ["path,label", *(f"{place:03}.png,{place % 2}" for place in range(count))]
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    encoder = brightness_encoder()
    features, read = clean_features(encoder, load_all(tmp_path), workers)
    shown = [place for place in range(count) if place != 7]
    assert [example.path for example in read] == [f"{place:03}.png" for place in shown]
    alone = [encoder.encode_image(torch.full((1, 3, SIZE, SIZE), place / 255))[0] for place in shown]
    assert torch.allclose(features, torch.stack(alone), atol=1e-6)


def test_nothing_to_read_is_no_features(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("path,label\nmissing.png,a\nmissing.png,b")
    features, read = clean_features(brightness_encoder(), load_all(tmp_path), 2)
    assert (features.shape, read) == ((0, brightness_encoder().dim), [])
