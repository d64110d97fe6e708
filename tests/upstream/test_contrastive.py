"""InfoNCE against hand and transformers' own; the gradient in parts is that of the whole batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from titer.errors import InputError
from titer.upstream.contrastive import backward_in_parts, contrastive_loss, same_captions

WORDS = ("one", "two", "three", "four", "five")


def unit(rows: int, seed: int, dim: int = 4) -> Tensor:
    drawn = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(drawn, dim=1)


def test_without_repetition_it_is_the_loss_of_transformers() -> None:
    images, texts, scale = unit(6, 0), unit(6, 1), torch.tensor(7.0, dtype=torch.float64)
    expected = image_text_contrastive_loss(scale * texts @ images.T)
    assert float(contrastive_loss(images, texts, scale, torch.eye(6, dtype=torch.bool))) == pytest.approx(
        float(expected)
    )


def test_by_hand() -> None:
    """Two pairs at right angles, scale ln 3: each softmax gives its own pair 3/4."""
    features = torch.eye(2)
    loss = contrastive_loss(features, features, torch.tensor(math.log(3)), torch.eye(2, dtype=torch.bool))
    assert float(loss) == pytest.approx(math.log(4 / 3))


def test_equal_captions_are_positives_of_each_other() -> None:
    same = same_captions(["a lung", "a  Lung", "a brain"])
    assert same.tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    loss = contrastive_loss(features, features, torch.tensor(50.0), same)
    assert float(loss) == pytest.approx(2 / 3 * math.log(2))  # cannot tell equal captions apart, and need not
    gradient_wanted = features.clone().requires_grad_()
    contrastive_loss(gradient_wanted, features, torch.tensor(50.0), same).backward()  # type: ignore[no-untyped-call]
    assert gradient_wanted.grad is not None
    assert torch.allclose(gradient_wanted.grad, torch.zeros(3, 2), atol=1e-6)


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4)).double()
        self.words = nn.Embedding(len(WORDS), 4).double()
        self.scale = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def encode_images(self, images: Tensor) -> Tensor:
        return F.normalize(self.image(images), dim=1)

    def encode_texts(self, captions: Sequence[str]) -> Tensor:
        return F.normalize(self.words(torch.tensor([WORDS.index(each) for each in captions])), dim=1)


@pytest.mark.parametrize("part", [1, 3, 5, 7, 100])
def test_the_gradient_in_parts_is_that_of_the_whole_batch(part: int) -> None:
    whole, parted = Towers(), Towers()
    captions = [WORDS[place % 5] for place in range(7)]
    images = torch.randn(7, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss = contrastive_loss(
        whole.encode_images(images), whole.encode_texts(captions), whole.scale.exp(), same_captions(captions)
    )
    loss.backward()  # type: ignore[no-untyped-call]
    found = backward_in_parts(parted.encode_images, parted.encode_texts, images, captions, parted.scale.exp(), part)
    assert found == pytest.approx(loss.item())
    for expected, got in zip(whole.parameters(), parted.parameters(), strict=True):
        assert expected.grad is not None
        assert got.grad is not None
        assert torch.allclose(expected.grad, got.grad, atol=1e-12, rtol=0)


def test_wrong_batches_are_refused() -> None:
    towers, images = Towers(), torch.zeros(2, 6, dtype=torch.float64)
    with pytest.raises(InputError, match="one caption"):
        backward_in_parts(towers.encode_images, towers.encode_texts, images, ["one", "one"], towers.scale, 1)
    with pytest.raises(InputError, match="at least 1 pair"):
        backward_in_parts(towers.encode_images, towers.encode_texts, images, ["one", "two"], towers.scale, 0)
