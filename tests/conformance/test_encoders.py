"""What every encoder must hold: a row's answer is its own, gradients flow, nothing is random."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from images import brightness_encoder
from published_files import biomed_directory, coca_directory, conch_directory, medclip_directory, open_clip_directory
from tiny_models import WORDS, clip_directory, siglip_directory, without_start
from titer.models import Encoder, load_model

MAKERS: dict[str, Callable[[Path], Encoder]] = {
    "clip": lambda path: load_model(clip_directory(path)),
    "siglip": lambda path: load_model(siglip_directory(path)),
    "clip in bfloat16": lambda path: load_model(clip_directory(path), dtype="bfloat16"),
    "siglip without a start": lambda path: load_model(without_start(siglip_directory(path))),
    "open_clip": lambda path: load_model(open_clip_directory(path)),
    "open_clip with timm's ViT and a BERT": lambda path: load_model(biomed_directory(path)),
    "coca": lambda path: load_model(coca_directory(path)),
    "conch": lambda path: load_model(conch_directory(path)),
    "medclip": lambda path: load_model(f"medclip:{medclip_directory(path)}"),
    "wrapped": lambda _: brightness_encoder(),
    "titer:tiny": lambda _: load_model("titer:tiny"),
}


@pytest.fixture(scope="module", params=MAKERS)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return MAKERS[request.param](tmp_path_factory.mktemp("model"))


def images_for(encoder: Encoder, count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, encoder.size, encoder.size, generator=torch.Generator().manual_seed(seed))


def test_features_are_unit_float32(encoder: Encoder) -> None:
    for features in (encoder.encode_image(images_for(encoder, 3)), encoder.encode_text(WORDS)):
        assert features.dtype == torch.float32
        assert features.shape == (3, encoder.dim)
        assert torch.allclose(features.norm(dim=1), torch.ones(3), atol=1e-5)


def test_a_row_does_not_know_its_neighbours(encoder: Encoder) -> None:
    """Draws must be independent in f: no batch statistics, no per-tensor quantisation."""
    first, other = images_for(encoder, 8), 5 * images_for(encoder, 8, seed=1)
    mixed = torch.cat([first[:1], other[1:]])
    assert torch.allclose(encoder.encode_image(first)[0], encoder.encode_image(mixed)[0], atol=1e-6)


def test_nothing_is_random(encoder: Encoder) -> None:
    images = images_for(encoder, 4)
    assert torch.equal(encoder.encode_image(images), encoder.encode_image(images))
    assert torch.allclose(
        encoder.encode_text(WORDS),
        encoder.encode_text(WORDS[::-1]).flip(0),
        atol=1e-5 if encoder.dtype == torch.float32 else 2e-2,
    )


def test_gradients_reach_the_pixels(encoder: Encoder) -> None:
    images = images_for(encoder, 2).requires_grad_()
    encoder.encode_image(images)[:, 0].sum().backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    assert torch.isfinite(images.grad).all()
    assert images.grad.abs().sum() > 0
