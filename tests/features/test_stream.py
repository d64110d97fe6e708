from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import titer
from images import SIZE, brightness_encoder
from titer.data import ClassText
from titer.errors import PictureError, RunError
from titer.features.stream import Voter, fixed_ballot, noisy_images, one_channel
from titer.models import Encoder, zero_shot
from titer.models.classifier import Head
from titer.noise import BLOCK, NoiseStream

CLASSES = (ClassText("dark", ("a dark picture",)), ClassText("bright", ("a bright picture",)))


def test_noise_is_added_unclipped_in_unit_pixels() -> None:
    image = torch.full((3, SIZE, SIZE), 0.9)
    noisy = noisy_images(image, "x", 0.5, NoiseStream(0, "estimate"), 0)
    expected = 0.9 + 0.5 * NoiseStream(0, "estimate").block("x", 0, (3, SIZE, SIZE))
    assert noisy.shape == (BLOCK, 3, SIZE, SIZE)
    assert np.allclose(noisy.numpy(), expected, atol=1e-6)
    assert noisy.max() > 1.5
    assert noisy.min() < 0


def test_one_channel_noise_is_drawn_once_and_replicated() -> None:
    noisy = noisy_images(torch.full((3, SIZE, SIZE), 0.4), "x", 0.2, NoiseStream(0, "estimate"), 0, channels=1)
    assert noisy.shape == (BLOCK, 3, SIZE, SIZE)
    assert torch.equal(noisy[:, 0], noisy[:, 1])
    assert torch.equal(noisy[:, 0], noisy[:, 2])
    assert 0.19 < float(noisy[:, 0].std()) < 0.21


def test_colour_is_told_from_grey() -> None:
    one_channel(torch.ones(3, 4, 4))
    with pytest.raises(PictureError, match="colour"):
        one_channel(torch.stack([torch.ones(4, 4), torch.ones(4, 4), torch.zeros(4, 4)]))


def test_votes_are_those_of_the_classifiers_on_the_same_noise() -> None:
    encoder = brightness_encoder()
    classifiers = [zero_shot(encoder, CLASSES), zero_shot(encoder, CLASSES[::-1])]
    image = torch.full((3, SIZE, SIZE), 0.5)
    votes = Voter([fixed_ballot(encoder, one.head) for one in classifiers], seed=4)(
        image, "x", 0.3, "select", 2, [0, 1]
    )
    noisy = noisy_images(image, "x", 0.3, NoiseStream(4, "select"), 2)
    assert votes.shape == (2, BLOCK)
    assert votes[0].tolist() == (noisy.mean(dim=(1, 2, 3)) > 0.5).long().tolist()
    assert (votes[0] + votes[1] == 1).all()


def test_what_only_decided_sets_use_is_not_run() -> None:
    """Neither their heads nor their encoder, and the votes of the others are what they were."""
    runs: Counter[str] = Counter()

    def encoder(name: str) -> Encoder:
        def encode_image(images: Tensor) -> Tensor:
            runs[name] += 1
            return torch.ones(len(images), 2)

        return titer.wrap(
            encode_image, lambda texts: torch.ones(len(texts), 2), SIZE, (0.0,) * 3, (1.0,) * 3, fingerprint=name
        )

    def always(name: str, label: int) -> Head:
        def head(features: Tensor) -> Tensor:
            runs[name] += 1
            return F.one_hot(torch.full((len(features),), label), 3)

        return head

    shared = encoder("shared")
    voter = Voter(
        [
            fixed_ballot(shared, always("first", 2)),
            fixed_ballot(encoder("other"), always("selector", 1), always("member", 2)),
            fixed_ballot(shared, always("last", 1)),
        ],
        seed=0,
    )
    image = torch.zeros(3, SIZE, SIZE)
    runs.clear()
    everyone = voter(image, "x", 0.1, "estimate", 0, [0, 1, 2])
    assert everyone[:, 0].tolist() == [2, 1, 2, 1]
    assert set(runs) == {"shared", "other", "first", "selector", "member", "last"}
    runs.clear()
    assert voter(image, "x", 0.1, "estimate", 0, {2})[:, 0].tolist() == [0, 0, 0, 1]
    assert runs == {"shared": 1, "last": 1}


def test_features_that_are_not_finite_stop_the_run() -> None:
    encoder = titer.wrap(
        lambda images: torch.where(images.amax(dim=(1, 2, 3))[:, None] > 2, torch.nan, torch.ones(len(images), 2)),
        lambda texts: torch.ones(len(texts), 2), SIZE, (0.0,) * 3, (1.0,) * 3, fingerprint="x",
    )  # fmt: skip
    with pytest.raises(RunError, match="nan or infinity for x at sigma 1"):
        Voter([fixed_ballot(encoder, zero_shot(encoder, CLASSES).head)], seed=0)(
            torch.ones(3, SIZE, SIZE), "x", 1.0, "select", 0, [0]
        )
