from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import titer
from titer.errors import InputError

HALF = (0.5, 0.5, 0.5)


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Linear(48, 5)
        self.drop = nn.Dropout(0.5)
        self.text = nn.Embedding(50, 5)

    def encode_image(self, images: Tensor) -> Tensor:
        features: Tensor = self.drop(self.image(images.flatten(1)))
        return features

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        features: Tensor = self.text(torch.tensor([len(text) % 50 for text in texts]))
        return features


def test_methods_modules_closures_and_partials_are_found() -> None:
    towers = Towers()
    bound = titer.wrap(towers.encode_image, towers.encode_text, 4, HALF, HALF)
    closed = titer.wrap(
        lambda images: towers.encode_image(images), lambda texts: towers.encode_text(texts), 4, HALF, HALF
    )
    partly = titer.wrap(partial(Towers.encode_image, towers), partial(Towers.encode_text, towers), 4, HALF, HALF)
    assert bound.fingerprint == closed.fingerprint == partly.fingerprint
    assert bound.parameters == 48 * 5 + 5 + 250
    assert not towers.training
    images = torch.rand(6, 3, 4, 4)
    assert torch.allclose(bound.encode_image(images).norm(dim=1), torch.ones(6))
    assert torch.equal(bound.encode_image(images), bound.encode_image(images))  # no dropout
    with torch.no_grad():
        towers.image.bias.add_(1)
    assert titer.wrap(towers.encode_image, towers.encode_text, 4, HALF, HALF).fingerprint != bound.fingerprint


def test_weights_that_cannot_be_found_need_a_fingerprint() -> None:
    def image(images: Tensor) -> Tensor:
        return images.flatten(1)[:, :5]

    def text(texts: Sequence[str]) -> Tensor:
        return torch.ones(len(texts), 5)

    with pytest.raises(InputError, match="pass fingerprint="):
        titer.wrap(image, text, 4, HALF, HALF)
    assert (
        titer.wrap(image, text, 4, HALF, HALF, fingerprint="v1").fingerprint
        != titer.wrap(image, text, 4, HALF, HALF, fingerprint="v2").fingerprint
    )


def five(texts: Sequence[str]) -> Tensor:
    return torch.ones(len(texts), 5)


@pytest.mark.parametrize(
    ("image", "text", "words"),
    [
        (lambda images: images, five, "encode_image: expected features"),
        (lambda images: images.flatten(1)[:1], five, "encode_image: expected features"),
        (lambda images: images.flatten(1)[:, :5], lambda texts: five(texts)[0], "encode_text: expected features"),
        (lambda images: images.flatten(1)[:, :4], five, "one space"),
        (lambda images: images.flatten(1) / 0, five, "finite"),
        (lambda images: list(images), five, "list"),
    ],
)
def test_wrong_shapes_are_found_by_the_probe(image: object, text: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        titer.wrap(image, text, 4, HALF, HALF, fingerprint="x")  # type: ignore[arg-type]
